//! The API's description: `/openapi.json`, generated from its handlers and their types, and
//! `/docs`, a page that shows it without loading anything from other origins.

use axum::{
    Router,
    http::{HeaderValue, header},
    routing::get,
};
use bytes::Bytes;
use tower::util::MapResponseLayer;
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa::openapi::{
    Components, ContentBuilder, Header, HeaderBuilder, InfoBuilder, ObjectBuilder, OpenApi, Ref,
    RefOr, Response, ResponseBuilder, Schema, Type,
    path::{Operation, Parameter, ParameterBuilder, ParameterIn},
    schema::SchemaType,
};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::{
    http::{MAX_BODY, MAX_HEAD, MAX_HEADERS, MAX_URL, Static},
    idempotency::MAX_LENGTH,
    problem::Problem,
};

/// Allows the page's own scripts and styles, and the API; nothing from other origins, and no
/// framing. Swagger UI sets inline styles and draws with `data:` images.
const DOCS_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
     img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'",
);

/// `/openapi.json` and `/docs` for an API described by its handlers, under the service's name and
/// with a sentence about it.
pub fn routes(description: OpenApi, name: &str, about: &str) -> Router {
    // Built once: the document never changes.
    let json = serde_json::to_vec(&complete(description, name, about));
    let json = json.map(Bytes::from).map_err(|error| Problem::internal(&error.into()));
    let description =
        move || async { json.map(|json| ([(header::CONTENT_TYPE, "application/json")], json)) };
    // "none" turns off the badge of an online validator.
    let page = SwaggerUi::new("/docs").config(Config::from("/openapi.json").validator_url("none"));
    Router::from(page)
        .layer(SetResponseHeaderLayer::overriding(header::CONTENT_SECURITY_POLICY, DOCS_POLICY))
        .layer(MapResponseLayer::new(part_of_the_program))
        .route("/openapi.json", get(description))
}

/// Adds what holds for every operation: the failures behind the API, and the headers that the
/// middleware sets on each answer.
fn complete(mut description: OpenApi, name: &str, about: &str) -> OpenApi {
    let errors = "Every error is a problem (RFC 9457) that names each invalid field.";
    description.info = InfoBuilder::new()
        .title(name)
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(format!("{about} {errors}")))
        .build();
    description.components.get_or_insert_with(Components::new);
    for item in description.paths.paths.values_mut() {
        item.get.iter_mut().for_each(complete_conditional);
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
        operations.into_iter().flatten().for_each(complete_operation);
    }
    description
}

/// Every JSON answer to a GET has an ETag.
fn complete_conditional(operation: &mut Operation) {
    let tag = || {
        text_header(
            "The response's entity tag. For a ticket of the tickets service: its version in quotes.",
        )
    };
    let same = "The response would be the same as the one that If-None-Match names.";
    let same = ResponseBuilder::new().description(same).header("ETag", tag()).build();
    let responses = &mut operation.responses.responses;
    responses.entry("304".to_owned()).or_insert(RefOr::T(same));
    if let Some(RefOr::T(found)) = responses.get_mut("200") {
        found.headers.entry("ETag".to_owned()).or_insert_with(|| tag().into());
    }
    let parameters = operation.parameters.get_or_insert_default();
    let is_there = |parameter: &RefOr<Parameter>| matches!(parameter, RefOr::T(given) if given.name == "If-None-Match");
    if !parameters.iter().any(is_there) {
        let parameter = ParameterBuilder::new()
            .name("If-None-Match")
            .parameter_in(ParameterIn::Header)
            .description(Some("The ETag of an earlier response. If nothing has changed since, the answer is 304 without a body."))
            .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
            .build();
        parameters.push(RefOr::T(parameter));
    }
}

/// Files compiled into the program cost no memory while a client reads them.
fn part_of_the_program(mut response: axum::response::Response) -> axum::response::Response {
    response.extensions_mut().insert(Static);
    response
}

fn complete_operation(operation: &mut Operation) {
    operation.parameters.iter_mut().flatten().for_each(without_null);
    operation.parameters.iter_mut().flatten().for_each(complete_key);
    let responses = &mut operation.responses.responses;
    for (status, text) in [
        ("408", "The request body did not arrive in time."),
        ("414", &*format!("Path and query exceed {MAX_URL} bytes.")),
        ("500", "The service failed."),
    ] {
        responses.insert(status.to_owned(), RefOr::T(problem(text).build()));
    }
    if let Some(RefOr::T(too_large)) = responses.get_mut("413") {
        too_large.description = format!("The body is larger than {} KiB.", MAX_BODY / 1024);
    }
    let away = problem("The service is too busy, or cannot reach its database. Try again.")
        .header("Retry-After", text_header("Seconds to wait."))
        .build();
    responses.entry("503".to_owned()).or_insert(RefOr::T(away));
    for response in responses.values_mut() {
        if let RefOr::T(Response { headers, .. }) = response {
            let id = "The request's id: the one that was sent, or a new one.";
            headers.insert("X-Request-Id".to_owned(), text_header(id).into());
            let trace = "The W3C trace context of the answer.";
            headers.insert("traceparent".to_owned(), text_header(trace).into());
        }
    }
    // Sent before the request is parsed, so without a body or headers.
    let large = format!(
        "The request's line and headers have more than {} KiB, or there are over {MAX_HEADERS} headers.",
        MAX_HEAD / 1024
    );
    let large = ResponseBuilder::new().description(large).build();
    responses.insert("431".to_owned(), RefOr::T(large));
}

/// Describes an Idempotency-Key, with its limits.
fn complete_key(parameter: &mut RefOr<Parameter>) {
    let RefOr::T(parameter) = parameter else { return };
    if parameter.name != "Idempotency-Key" {
        return;
    }
    let meaning = "Identifies the request when the client retries it";
    parameter.description = Some(format!("{meaning}: 1-{MAX_LENGTH} visible ASCII characters."));
    let schema = ObjectBuilder::new()
        .schema_type(Type::String)
        .min_length(Some(1))
        .max_length(Some(MAX_LENGTH))
        .pattern(Some(format!("^[!-~]{{1,{MAX_LENGTH}}}$")));
    parameter.schema = Some(schema.into());
}

/// An optional parameter is left out, never null, as utoipa would describe an `Option`.
fn without_null(parameter: &mut RefOr<Parameter>) {
    let RefOr::T(Parameter { schema: Some(RefOr::T(Schema::Object(schema))), .. }) = parameter
    else {
        return;
    };
    if let SchemaType::Array(types) = &mut schema.schema_type {
        types.retain(|kind| *kind != Type::Null);
        if let [only] = &types[..] {
            schema.schema_type = SchemaType::Type(only.clone());
        }
    }
}

fn problem(text: &str) -> ResponseBuilder {
    let schema = Ref::from_schema_name(<Problem as utoipa::ToSchema>::name());
    let content = ContentBuilder::new().schema(Some(schema)).build();
    ResponseBuilder::new().description(text).content("application/problem+json", content)
}

fn text_header(text: &str) -> Header {
    HeaderBuilder::new()
        .schema(Some(ObjectBuilder::new().schema_type(Type::String)))
        .description(Some(text))
        .build()
}
