# One file for all images: `docker build --target tickets .`, or `orders`, `notifications`, `console`.
# PROFILE=dev builds faster and runs slower.

# A release builds from these by digest: infra/release.
ARG RUST_IMAGE=rust:1.95-slim-bookworm
ARG BASE_IMAGE=gcr.io/distroless/cc-debian12:nonroot

# The dependencies, built from the manifests alone, so that a change to our sources does not rebuild them.
FROM $RUST_IMAGE AS dependencies
ARG PROFILE=release
# No debug information: nobody debugs in these images, and the layers are a tenth of the size.
ENV CARGO_PROFILE_DEV_DEBUG=0 CARGO_PROFILE_DEV_STRIP=true CARGO_PROFILE_RELEASE_STRIP=true
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY crates/bus/Cargo.toml crates/bus/
COPY crates/common/Cargo.toml crates/common/
COPY crates/tickets/Cargo.toml crates/tickets/
COPY crates/orders/Cargo.toml crates/orders/
COPY crates/notifications/Cargo.toml crates/notifications/
COPY crates/embedded/Cargo.toml crates/embedded/
COPY crates/ticketing/Cargo.toml crates/ticketing/
COPY crates/model/Cargo.toml crates/model/
COPY crates/console/Cargo.toml crates/console/
COPY crates/testkit/Cargo.toml crates/testkit/
# Cargo needs a source file for each crate, test and benchmark that a manifest names.
RUN for crate in crates/*; do \
        mkdir "$crate/src" && echo '//! Empty.' > "$crate/src/lib.rs" \
        && printf '//! Empty.\nfn main() {}\n' > "$crate/src/main.rs"; \
    done \
    && for program in benches/system tests/rollout tests/third_service; do \
        mkdir -p "crates/ticketing/$program" \
        && printf '//! Empty.\nfn main() {}\n' > "crates/ticketing/$program/main.rs"; \
    done
# The packages of all images, always built together: see below.
RUN printf -- '--package %s\n' tickets orders notifications ticketing-console > packages
RUN --mount=type=cache,id=ticketing-registry,target=/usr/local/cargo/registry \
    xargs --arg-file packages cargo build --locked --profile "$PROFILE"

# The shared crates. The sources are touched so that they are newer than what was built from the stand-ins.
# Always the same packages, because they determine the features of the dependencies.
FROM dependencies AS common
COPY crates/bus crates/bus
COPY crates/common crates/common
RUN --mount=type=cache,id=ticketing-registry,target=/usr/local/cargo/registry \
    find crates/bus crates/common -name '*.rs' -exec touch {} + \
    && xargs --arg-file packages cargo build --locked --profile "$PROFILE"

# Each service separately, so that a change to one does not rebuild the others. A build with PROFILE=dev is
# incremental.
FROM common AS build-tickets
COPY crates/tickets crates/tickets
RUN --mount=type=cache,id=ticketing-registry,target=/usr/local/cargo/registry \
    --mount=type=cache,id=ticketing-tickets,target=/src/target/debug/incremental \
    find crates/tickets -name '*.rs' -exec touch {} + \
    && xargs --arg-file packages cargo build --locked --profile "$PROFILE" \
    && mv target/*/tickets /usr/local/bin/

FROM common AS build-orders
COPY crates/orders crates/orders
RUN --mount=type=cache,id=ticketing-registry,target=/usr/local/cargo/registry \
    --mount=type=cache,id=ticketing-orders,target=/src/target/debug/incremental \
    find crates/orders -name '*.rs' -exec touch {} + \
    && xargs --arg-file packages cargo build --locked --profile "$PROFILE" \
    && mv target/*/orders /usr/local/bin/

FROM common AS build-notifications
COPY crates/notifications crates/notifications
RUN --mount=type=cache,id=ticketing-registry,target=/usr/local/cargo/registry \
    --mount=type=cache,id=ticketing-notifications,target=/src/target/debug/incremental \
    find crates/notifications -name '*.rs' -exec touch {} + \
    && xargs --arg-file packages cargo build --locked --profile "$PROFILE" \
    && mv target/*/notifications /usr/local/bin/

FROM common AS build-console
COPY crates/console crates/console
RUN --mount=type=cache,id=ticketing-registry,target=/usr/local/cargo/registry \
    --mount=type=cache,id=ticketing-console,target=/src/target/debug/incremental \
    find crates/console -name '*.rs' -exec touch {} + \
    && xargs --arg-file packages cargo build --locked --profile "$PROFILE" \
    && mv target/*/console /usr/local/bin/

FROM $BASE_IMAGE AS service
ENV HTTP_ADDRESS=0.0.0.0:3000 LOG_FORMAT=json
EXPOSE 3000
USER 65532:65532
LABEL org.opencontainers.image.licenses="Apache-2.0"

FROM service AS tickets
LABEL org.opencontainers.image.title="tickets" \
      org.opencontainers.image.description="Accepts tickets over HTTP and publishes them to NATS."
COPY --from=build-tickets /usr/local/bin/tickets /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/tickets"]

FROM service AS orders
LABEL org.opencontainers.image.title="orders" \
      org.opencontainers.image.description="Reserves tickets for buyers and takes their payments."
COPY --from=build-orders /usr/local/bin/orders /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/orders"]

FROM service AS notifications
LABEL org.opencontainers.image.title="notifications" \
      org.opencontainers.image.description="Stores a notification of each new ticket: a template."
COPY --from=build-notifications /usr/local/bin/notifications /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/notifications"]

FROM service AS console
ENV HTTP_ADDRESS=0.0.0.0:3900
EXPOSE 3900
LABEL org.opencontainers.image.title="console" \
      org.opencontainers.image.description="Shows where events are and what is down."
COPY --from=build-console /usr/local/bin/console /usr/local/bin/
ENTRYPOINT ["/usr/local/bin/console"]
