//! /v1/models, and what needs another kind of model.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::Json;
use serde_json::{json, Value};

use super::errors::{ApiError, Result};
use super::Gateway;

fn entry(gateway: &Gateway, name: &str) -> Value {
    json!({
        "id": name,
        "object": "model",
        "created": gateway.since,
        "owned_by": "deepnode",
        "root": gateway.id,
        "max_model_len": gateway.model.arch().context,
    })
}

pub async fn list(State(gateway): State<Arc<Gateway>>) -> Json<Value> {
    let data: Vec<_> = gateway.names().map(|name| entry(&gateway, name)).collect();
    Json(json!({ "object": "list", "data": data }))
}

pub async fn retrieve(
    State(gateway): State<Arc<Gateway>>,
    name: std::result::Result<Path<String>, PathRejection>,
) -> Result<Json<Value>> {
    let Path(name) = name.map_err(|e| ApiError::unreadable(e.to_string()))?;
    gateway.check_name(&name)?;
    Ok(Json(entry(&gateway, &name)))
}

pub async fn embeddings() -> ApiError {
    ApiError::unsupported(
        "/v1/embeddings",
        "the model that is served generates text, and is no embedding model",
    )
}
