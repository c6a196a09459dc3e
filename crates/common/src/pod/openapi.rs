//! What an API says of itself: `/openapi.json`, made from its handlers and their types, and `/docs`, a
//! page that shows it and loads nothing from elsewhere.

use axum::{
    Json, Router,
    http::{HeaderValue, header},
    routing::get,
};
use tower_http::set_header::SetResponseHeaderLayer;
use utoipa::openapi::{
    Components, ContentBuilder, Header, HeaderBuilder, InfoBuilder, ObjectBuilder, OpenApi, Ref,
    RefOr, Response, ResponseBuilder, Schema, Type,
    path::{Operation, Parameter},
    schema::SchemaType,
};
use utoipa_swagger_ui::{Config, SwaggerUi};

use super::problem::Problem;

/// The page's own scripts and styles, and the API; nothing from elsewhere, and no frame around it.
/// Swagger UI sets styles on its elements and draws with `data:` images.
const DOCS_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
     img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'",
);

/// `/openapi.json` and `/docs`, for an API that its handlers have described, under the service's name
/// and with a sentence about it.
pub fn routes(description: OpenApi, name: &str, about: &str) -> Router {
    let description = complete(description, name, about);
    // "none" turns off the badge of an online validator.
    let page = SwaggerUi::new("/docs").config(Config::from("/openapi.json").validator_url("none"));
    Router::from(page)
        .layer(SetResponseHeaderLayer::overriding(header::CONTENT_SECURITY_POLICY, DOCS_POLICY))
        .route("/openapi.json", get(move || async { Json(description) }))
}

/// Adds what is true of every operation: the failures behind the API, and the headers that the
/// stack puts on each answer.
fn complete(mut description: OpenApi, name: &str, about: &str) -> OpenApi {
    let errors = "Every error is a problem (RFC 9457) that names each field that was wrong.";
    description.info = InfoBuilder::new()
        .title(name)
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(format!("{about} {errors}")))
        .build();
    description.components.get_or_insert_with(Components::new);
    for item in description.paths.paths.values_mut() {
        let operations = [&mut item.get, &mut item.put, &mut item.post, &mut item.delete];
        operations.into_iter().flatten().for_each(complete_operation);
    }
    description
}

fn complete_operation(operation: &mut Operation) {
    operation.parameters.iter_mut().flatten().for_each(without_null);
    let responses = &mut operation.responses.responses;
    responses.insert("500".to_owned(), RefOr::T(problem("The service failed.").build()));
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
}

/// A parameter that is optional is left out; it is never null, as utoipa has it for an `Option`.
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
