//! /v1/models, and what needs another kind of model.

use std::sync::Arc;

use axum::extract::rejection::PathRejection;
use axum::extract::{Path, State};
use axum::Json;
use serde_json::{json, Value};

use super::errors::{ApiError, Result};
use super::Gateway;

/// A model as requests call it, by its id or its name.
#[derive(Clone, Debug)]
pub struct Listed {
    /// The model id, hex.
    pub id: String,
    pub name: Option<String>,
    /// Greatest number of positions.
    pub context: u32,
    /// Seconds since 1970 at which serving began.
    pub since: u64,
}

impl Listed {
    /// The names that a request may call it by.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.name.as_deref().into_iter().chain([self.id.as_str()])
    }

    pub fn is(&self, name: &str) -> bool {
        self.names().any(|known| known == name)
    }

    /// Refuses a name of another model.
    pub fn check(&self, name: &str) -> Result<()> {
        match self.is(name) {
            true => Ok(()),
            false => Err(ApiError::no_model(name, &self.names().collect::<Vec<_>>().join(", "))),
        }
    }

    fn entry(&self, name: &str) -> Value {
        json!({
            "id": name,
            "object": "model",
            "created": self.since,
            "owned_by": "deepnode",
            "root": self.id,
            "max_model_len": self.context,
        })
    }
}

/// The models under all their names.
pub fn list_of(models: &[&Listed]) -> Json<Value> {
    let entries = models.iter().flat_map(|model| model.names().map(|name| model.entry(name)));
    Json(json!({ "object": "list", "data": entries.collect::<Vec<_>>() }))
}

/// A name in a path.
pub type Name = std::result::Result<Path<String>, PathRejection>;

/// The model of this name.
pub fn one_of(models: &[&Listed], name: Name) -> Result<Json<Value>> {
    let Path(name) = name.map_err(|e| ApiError::unreadable(e.to_string()))?;
    match models.iter().find(|model| model.is(&name)) {
        Some(model) => Ok(Json(model.entry(&name))),
        None => {
            let known: Vec<&str> = models.iter().flat_map(|model| model.names()).collect();
            Err(ApiError::no_model(&name, &known.join(", ")))
        }
    }
}

pub async fn list(State(gateway): State<Arc<Gateway>>) -> Json<Value> {
    list_of(&gateway.listed())
}

pub async fn retrieve(State(gateway): State<Arc<Gateway>>, name: Name) -> Result<Json<Value>> {
    one_of(&gateway.listed(), name)
}

pub async fn no_embeddings() -> ApiError {
    ApiError::unsupported(
        "/v1/embeddings",
        "the model that is served generates text, and is no embedding model",
    )
}
