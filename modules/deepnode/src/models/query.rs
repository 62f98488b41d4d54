//! Queries.

use deepnode_core::query::paginate;
use deepnode_core::{errors, KvRead, Queries, QueryCtx, QueryResult, Result, Status as QueryStatus, Walk};
use deepnode_proto::deepnode::models::v1::{
    self as proto, ModelStatus, QueryClassesRequest, QueryClassesResponse, QueryModelRequest,
    QueryModelResponse, QueryModelsRequest, QueryModelsResponse, QueryParamsRequest, QueryParamsResponse,
};

use super::state::*;
use crate::fields;

pub(super) fn register(queries: &mut Queries) {
    queries
        .on("/deepnode.models.v1.Query/Params", params)
        .on("/deepnode.models.v1.Query/Model", model)
        .on("/deepnode.models.v1.Query/Models", models)
        .on("/deepnode.models.v1.Query/Classes", classes);
}

fn params(cx: QueryCtx<'_>, _: QueryParamsRequest) -> QueryResult<QueryParamsResponse> {
    let params = PARAMS.load(cx.state)?.to_proto(&super::classes(cx.state)?);
    Ok(QueryParamsResponse { params: Some(params) })
}

fn model(cx: QueryCtx<'_>, q: QueryModelRequest) -> QueryResult<QueryModelResponse> {
    let id = match fields::hex_digest("id", &q.id) {
        Ok(id) => id,
        Err(_) => by_name(cx, &q.id)?,
    };
    let model = super::get(cx.state, &id)?
        .ok_or_else(|| QueryStatus::not_found(format!("model {} not found", hex::encode(id))))?;
    Ok(QueryModelResponse { model: Some(model.to_proto(cx.state, &id)?) })
}

/// The one active model of a name.
fn by_name(cx: QueryCtx<'_>, name: &str) -> QueryResult<ModelId> {
    let mut found = NAMES.iter_from(cx.state, &name.to_owned(), Walk::FORWARD);
    match (found.next().transpose()?, found.next().transpose()?) {
        (Some((_, id)), None) => Ok(id),
        (None, _) => Err(QueryStatus::not_found(format!(
            "id {:?} is neither 64 lower-case hex digits nor the name of an active model",
            fields::excerpt(name)
        ))),
        (Some((_, first)), Some((_, second))) => Err(QueryStatus::invalid(format!(
            "name {name:?} is that of more than one model: {}, {}",
            hex::encode(first),
            hex::encode(second)
        ))),
    }
}

fn models(cx: QueryCtx<'_>, q: QueryModelsRequest) -> QueryResult<QueryModelsResponse> {
    let (entries, page) = paginate(q.pagination, |k| MODELS.raw_key(k), |walk| MODELS.iter(cx.state, walk))?;
    let models = entries.iter().map(|(id, model)| model.to_proto(cx.state, id)).collect::<Result<_>>()?;
    Ok(QueryModelsResponse { models, pagination: Some(page) })
}

fn classes(cx: QueryCtx<'_>, _: QueryClassesRequest) -> QueryResult<QueryClassesResponse> {
    let classes = super::classes(cx.state)?;
    Ok(QueryClassesResponse { classes: classes.iter().map(Class::to_proto).collect() })
}

impl Model {
    fn to_proto(&self, kv: &dyn KvRead, id: &ModelId) -> Result<proto::Model> {
        let a = &self.architecture;
        let usage = super::usage(kv, id)?;
        Ok(proto::Model {
            id: id.to_vec(),
            owner: self.owner.to_string(),
            name: self.name.clone(),
            licence: self.licence.clone(),
            kind: self.kind.clone(),
            class: self.class.clone(),
            architecture: Some(proto::Architecture {
                layers: a.layers,
                width: a.width,
                heads: a.heads,
                kv_heads: a.kv_heads,
                head_dim: a.head_dim,
                ffn: a.ffn,
                vocab: a.vocab,
                context: a.context,
            }),
            weights: self.weights,
            royalty_ppm: self.royalty_ppm,
            parent: self.parent.map(|parent| parent.to_vec()).unwrap_or_default(),
            parent_part_ppm: self.parent_part_ppm,
            status: self.status.to_proto().into(),
            scored: self.scored,
            registered_height: self.registered_height,
            vector_root: self.vector_root.map(|root| root.to_vec()).unwrap_or_default(),
            tasks: usage.tasks,
            cu: usage.cu,
        })
    }
}

impl Status {
    fn to_proto(self) -> ModelStatus {
        match self {
            Status::Pending => ModelStatus::Pending,
            Status::Active => ModelStatus::Active,
            Status::Rejected => ModelStatus::Rejected,
            Status::Deprecated => ModelStatus::Deprecated,
            Status::Delisted => ModelStatus::Delisted,
        }
    }

    pub(super) fn from_proto(number: i32) -> Result<Self> {
        match ModelStatus::try_from(number) {
            Ok(ModelStatus::Pending) => Ok(Status::Pending),
            Ok(ModelStatus::Active) => Ok(Status::Active),
            Ok(ModelStatus::Rejected) => Ok(Status::Rejected),
            Ok(ModelStatus::Deprecated) => Ok(Status::Deprecated),
            Ok(ModelStatus::Delisted) => Ok(Status::Delisted),
            _ => Err(errors::invalid_request(format!("status {number}, allowed are 1 to 5"))),
        }
    }

    /// As protobuf's JSON has it.
    pub fn name(self) -> &'static str {
        self.to_proto().as_str_name()
    }
}
