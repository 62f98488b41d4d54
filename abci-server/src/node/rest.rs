//! REST: each method under the paths of its `google.api.http` option, transcoded by the descriptors.

use std::collections::BTreeMap;
use std::future::Future;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::Router;
use deepnode_core::query::{Code, Status};
use prost_reflect::{FieldDescriptor, Kind, MessageDescriptor, Value as Reflected};
use serde_json::{json, Map, Value};
use tower_http::cors::CorsLayer;

use super::grpc::{parse_height, HEIGHT_HEADER};
use super::Node;
use crate::json;

/// A body longer than this is refused; the largest transaction is 1 MiB, and base64 adds a third.
const MAX_BODY: usize = 2 << 20;

/// Serves until `stop` resolves.
pub async fn serve(
    node: Node,
    listener: tokio::net::TcpListener,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let routes = std::sync::Arc::new(Routes::new());
    let metrics = node.metrics.clone();
    let app = Router::new()
        .route("/metrics", get(move || async move { metrics.response() }))
        .fallback(answer)
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(CorsLayer::permissive())
        .with_state((node, routes));
    axum::serve(listener, app).with_graceful_shutdown(stop).await
}

/// One way to call a method.
struct Route {
    verb: Method,
    template: Vec<Segment>,
    /// `/package.Service/Method`
    path: String,
    input: MessageDescriptor,
    output: MessageDescriptor,
    body: bool,
}

enum Segment {
    Text(String),
    /// A field of the request, by its name.
    Field(String),
    /// All the rest of the path, slashes included.
    Rest(String),
}

struct Routes {
    all: Vec<Route>,
}

impl Routes {
    /// Those that nobody serves as well: a client hears the reason.
    fn new() -> Self {
        let pool = deepnode_proto::pool();
        let http = pool.get_extension_by_name("google.api.http");
        let mut all = Vec::new();
        for service in pool.services() {
            for method in service.methods() {
                let path = format!("/{}/{}", service.full_name(), method.name());
                let options = method.options();
                let Some(http) = &http else { continue };
                let rule = options.get_extension(http);
                let Some(rule) = rule.as_message() else { continue };
                let more = rule.get_field_by_name("additional_bindings");
                let more = more.as_deref().and_then(Reflected::as_list).unwrap_or_default();
                for rule in std::iter::once(rule).chain(more.iter().filter_map(Reflected::as_message)) {
                    let text = |name: &str| {
                        let value = rule.get_field_by_name(name)?;
                        value.as_str().filter(|s| !s.is_empty()).map(str::to_owned)
                    };
                    let (verb, template) = match (text("get"), text("post")) {
                        (Some(template), _) => (Method::GET, template),
                        (_, Some(template)) => (Method::POST, template),
                        _ => continue,
                    };
                    all.push(Route {
                        verb,
                        template: parse_template(&template),
                        path: path.clone(),
                        input: method.input(),
                        output: method.output(),
                        body: text("body").is_some(),
                    });
                }
            }
        }
        // A literal segment beats a field: /blocks/latest before /blocks/{height}.
        all.sort_by(|a, b| a.template.iter().map(Segment::rank).cmp(b.template.iter().map(Segment::rank)));
        Routes { all }
    }

    fn find(&self, verb: &Method, path: &str) -> Option<(&Route, BTreeMap<String, String>)> {
        let parts: Vec<_> = path.trim_matches('/').split('/').collect();
        self.all.iter().filter(|r| r.verb == *verb).find_map(|r| Some((r, r.matches(&parts)?)))
    }
}

impl Segment {
    fn rank(&self) -> (u8, &str) {
        match self {
            Segment::Text(text) => (0, text),
            Segment::Field(_) => (1, ""),
            Segment::Rest(_) => (2, ""),
        }
    }
}

fn parse_template(template: &str) -> Vec<Segment> {
    let segment = |part: &str| match part.strip_prefix('{').and_then(|p| p.strip_suffix('}')) {
        None => Segment::Text(part.into()),
        Some(field) => match field.strip_suffix("=**") {
            Some(field) => Segment::Rest(field.into()),
            None => Segment::Field(field.split('=').next().unwrap_or_default().into()),
        },
    };
    template.trim_matches('/').split('/').map(segment).collect()
}

impl Route {
    fn matches(&self, parts: &[&str]) -> Option<BTreeMap<String, String>> {
        let mut fields = BTreeMap::new();
        for (index, segment) in self.template.iter().enumerate() {
            let part = parts.get(index)?;
            match segment {
                Segment::Text(text) if text == part => {}
                Segment::Text(_) => return None,
                Segment::Field(name) => {
                    fields.insert(name.clone(), unescape(part, false));
                }
                Segment::Rest(name) => {
                    fields.insert(name.clone(), unescape(&parts[index..].join("/"), false));
                    return Some(fields);
                }
            }
        }
        (parts.len() == self.template.len()).then_some(fields)
    }
}

/// Undoes percent encoding; in a query a plus is a space.
fn unescape(text: &str, query: bool) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex =
            text.get(i + 1..i + 3).filter(|_| bytes[i] == b'%').and_then(|h| u8::from_str_radix(h, 16).ok());
        match hex {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(if query && bytes[i] == b'+' { b' ' } else { bytes[i] });
                i += 1;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

async fn answer(
    State((node, routes)): State<(Node, std::sync::Arc<Routes>)>,
    verb: Method,
    uri: Uri,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Response {
    let answer = match body {
        Ok(body) => call(&node, &routes, &verb, &uri, &headers, &body).await,
        Err(e) => Err(Status::invalid(format!("body: {}; at most {MAX_BODY} bytes", e.body_text()))),
    };
    match answer {
        Ok((height, value)) => {
            let mut response = axum::Json(value).into_response();
            response.headers_mut().insert(HEIGHT_HEADER, HeaderValue::from(height));
            response
        }
        Err(status) => refusal(&status),
    }
}

fn refusal(status: &Status) -> Response {
    let http = match status.code {
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => StatusCode::BAD_REQUEST,
        Code::NotFound => StatusCode::NOT_FOUND,
        Code::Unimplemented => StatusCode::NOT_IMPLEMENTED,
        Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let body = json!({ "code": status.code as i32, "message": status.message, "details": [] });
    (http, axum::Json(body)).into_response()
}

async fn call(
    node: &Node,
    routes: &Routes,
    verb: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<(u64, Value), Status> {
    let (route, fields) = routes
        .find(verb, uri.path())
        .ok_or_else(|| Status::new(Code::Unimplemented, format!("{verb} {}: Not Implemented", uri.path())))?;
    let height = match headers.get(HEIGHT_HEADER) {
        Some(text) => parse_height(text.to_str().unwrap_or_default())?,
        None => 0,
    };
    let mut request = match route.body && !body.is_empty() {
        true => serde_json::from_slice(body).map_err(|e| Status::invalid(format!("body: {e}")))?,
        false => Value::Object(Map::new()),
    };
    if !route.body {
        for pair in uri.query().unwrap_or_default().split('&').filter(|p| !p.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            set(&mut request, &route.input, &unescape(name, true), unescape(value, true))?;
        }
    }
    for (name, value) in fields {
        set(&mut request, &route.input, &name, value)?;
    }
    let bytes = json::from_json(route.input.clone(), request)?;
    let (height, answer) = node.call(&route.path, height, bytes).await?;
    Ok((height, json::to_json(route.output.clone(), &answer)?))
}

/// Sets a field that the URL names, `pagination.limit` included. Unknown names and empty values are ignored.
fn set(request: &mut Value, kind: &MessageDescriptor, name: &str, value: String) -> Result<(), Status> {
    let (head, rest) = name.split_once('.').map_or((name, None), |(head, rest)| (head, Some(rest)));
    let field = kind.get_field_by_name(head).or_else(|| kind.get_field_by_json_name(head));
    let (Some(field), Value::Object(fields)) = (field, request) else { return Ok(()) };
    if value.is_empty() {
        return Ok(());
    }
    if let (Some(rest), Kind::Message(inner)) = (rest, field.kind()) {
        let entry = fields.entry(field.name()).or_insert_with(|| json!({}));
        return set(entry, &inner, rest, value);
    }
    let value = scalar(&field, value)?;
    match field.is_list() {
        true => {
            let list = fields.entry(field.name()).or_insert_with(|| json!([]));
            if let Value::Array(items) = list {
                items.push(value);
            }
        }
        false => {
            fields.insert(field.name().into(), value);
        }
    }
    Ok(())
}

fn scalar(field: &FieldDescriptor, text: String) -> Result<Value, Status> {
    let bad = |what: &str| Status::invalid(format!("{} {text:?} must be {what}", field.name()));
    Ok(match field.kind() {
        Kind::Bool => Value::Bool(text.parse().map_err(|_| bad("true or false"))?),
        Kind::Enum(kind) => match text.parse::<i32>() {
            Ok(number) => number.into(),
            Err(_) if kind.get_value_by_name(&text).is_some() => Value::String(text),
            Err(_) => return Err(bad(&format!("the name or number of a {}", kind.full_name()))),
        },
        Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 if text.parse::<i32>().is_err() => {
            return Err(bad("a 32-bit integer"));
        }
        Kind::Uint32 | Kind::Fixed32 if text.parse::<u32>().is_err() => {
            return Err(bad("a 32-bit integer, 0 or above"));
        }
        Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 if text.parse::<i64>().is_err() => {
            return Err(bad("a 64-bit integer"));
        }
        Kind::Uint64 | Kind::Fixed64 if text.parse::<u64>().is_err() => {
            return Err(bad("a 64-bit integer, 0 or above"));
        }
        // A space in a key is a plus that the client did not escape.
        Kind::Bytes => Value::String(text.replace(' ', "+")),
        _ => Value::String(text),
    })
}
