#!/bin/sh
# A database and a role for each service, which owns it and may connect to no other. Run once, when
# the data folder is made.
set -eu
for service in tickets orders; do
    password=$(printenv "$(printf '%s' "$service" | tr '[:lower:]' '[:upper:]')_PASSWORD")
    psql --set ON_ERROR_STOP=1 --username "$POSTGRES_USER" --dbname postgres \
        --set service="$service" --set password="$password" <<'SQL'
create role :"service" login nosuperuser nocreatedb nocreaterole password :'password';
create database :"service" owner :"service";
revoke connect, temporary on database :"service" from public;
SQL
done
