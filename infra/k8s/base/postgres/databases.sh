#!/bin/sh
# Creates a database for each service, and a role that owns it and may connect to no other. Runs at every
# start of the container, because an earlier run may have been interrupted and passwords may change; the
# pod is not ready until it ends. If this fails, Kubernetes restarts the container.
set -eu

# By TCP: during initialization, the server listens on its Unix socket only. Waits up to half an hour,
# because Kubernetes kills the container if this fails, and recovery after a crash must not start over
# each time.
for try in $(seq 3600); do
    pg_isready --quiet --host=127.0.0.1 --username="$POSTGRES_USER" && break
    [ "$try" -lt 3600 ] || { echo "Postgres does not accept connections" >&2; exit 1; }
    sleep 0.5
done

as_superuser() {
    psql --quiet --set=ON_ERROR_STOP=1 --host=/var/run/postgresql --username="$POSTGRES_USER" \
        --dbname=postgres "$@"
}
as_superuser --command='revoke connect, temporary on database postgres, template1 from public'
# A connection limit for each role, so that no service can use up another's connections. The sum is below
# max_connections minus the three that Postgres reserves for superusers; statefulset.yaml says what a pod
# needs.
limit() {
    case $1 in
        orders) echo 225 ;;
        *) echo 70 ;;
    esac
}
# The names of the services, from the variables with their passwords: TICKETS_PASSWORD is that of tickets.
services=$(awk 'BEGIN {
    for (name in ENVIRON)
        if (name ~ /^[A-Z0-9]+_PASSWORD$/ && name != "POSTGRES_PASSWORD")
            print tolower(substr(name, 1, length(name) - length("_PASSWORD")))
}')
for service in $services; do
    password=$(printenv "$(printf '%s' "$service" | tr '[:lower:]' '[:upper:]')_PASSWORD")
    as_superuser --set=service="$service" --set=password="$password" --set=limit="$(limit "$service")" <<'SQL'
select format('create role %I', :'service')
    where not exists (select from pg_roles where rolname = :'service') \gexec
alter role :"service" login nosuperuser nocreatedb nocreaterole connection limit :limit password :'password';
select format('create database %I owner %I', :'service', :'service')
    where not exists (select from pg_database where datname = :'service') \gexec
revoke connect, temporary on database :"service" from public;
SQL
done
