//! Problem responses that many operations share, for their OpenAPI description.

use utoipa::IntoResponses;

use super::problem::Problem;

/// An operation that needs a caller.
#[derive(Debug, IntoResponses)]
pub enum CallerResponses {
    /// No token, or a token that is not accepted.
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthorized(Problem),
}

/// An operation that takes a JSON body.
#[derive(Debug, IntoResponses)]
pub enum BodyResponses {
    /// The body is too large.
    #[response(status = 413, content_type = "application/problem+json")]
    TooLarge(Problem),
    /// The body is not sent as application/json.
    #[response(status = 415, content_type = "application/problem+json")]
    NotJson(Problem),
}

/// An operation that returns a page.
#[derive(Debug, IntoResponses)]
pub enum PageResponses {
    /// A parameter is wrong or unknown.
    #[response(status = 422, content_type = "application/problem+json")]
    BadParameter(Problem),
}
