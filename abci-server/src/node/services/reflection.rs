//! What the chain speaks, read from the descriptors. gRPC's own reflection is served beside it.

use std::collections::{BTreeMap, BTreeSet};

use deepnode_core::query::Status;
use deepnode_proto::cosmos::autocli::v1::{
    AppOptionsRequest, AppOptionsResponse, ModuleOptions, ServiceCommandDescriptor,
};
use deepnode_proto::cosmos::base::reflection::v1beta1::*;
use deepnode_proto::cosmos::reflection::v1::{FileDescriptorsRequest, FileDescriptorsResponse};
use prost_reflect::{ServiceDescriptor, Value};

use super::{Node, Result, Services};

/// The interface of all messages; its implementations are those with a handler.
const MSG: &str = "cosmos.base.v1beta1.Msg";

pub fn register(services: &mut Services) {
    services
        .on("/cosmos.reflection.v1.ReflectionService/FileDescriptors", file_descriptors)
        .on("/cosmos.autocli.v1.Query/AppOptions", app_options)
        .on("/cosmos.base.reflection.v1beta1.ReflectionService/ListAllInterfaces", interfaces)
        .on("/cosmos.base.reflection.v1beta1.ReflectionService/ListImplementations", implementations);
}

/// A FileDescriptorsResponse has on the wire the form of a FileDescriptorSet.
fn file_descriptors(_: &Node, _: FileDescriptorsRequest) -> Result<FileDescriptorsResponse> {
    super::decode(deepnode_proto::FILE_DESCRIPTOR_SET)
}

/// Each module's services, of which a Cosmos CLI makes commands.
fn app_options(node: &Node, _: AppOptionsRequest) -> Result<AppOptionsResponse> {
    let mut module_options = BTreeMap::new();
    for module in node.app.modules().all() {
        let service = |kind: &str| {
            // gov has two packages: v1 comes before v1beta1.
            let mut found: Vec<_> =
                deepnode_proto::pool().services().filter(|s| is_of(s, module.name(), kind)).collect();
            found.sort_by(|a, b| a.full_name().cmp(b.full_name()));
            let service = found.first()?.full_name().to_owned();
            Some(ServiceCommandDescriptor { service, ..ServiceCommandDescriptor::default() })
        };
        let options = ModuleOptions { tx: service("Msg"), query: service("Query") };
        module_options.insert(module.name().to_owned(), options);
    }
    Ok(AppOptionsResponse { module_options })
}

/// Whether `service` is `X.MODULE.vN.KIND`.
fn is_of(service: &ServiceDescriptor, module: &str, kind: &str) -> bool {
    service.name() == kind && service.package_name().split('.').nth(1) == Some(module)
}

fn interfaces(_: &Node, _: ListAllInterfacesRequest) -> Result<ListAllInterfacesResponse> {
    let mut names: BTreeSet<_> = implementers().into_iter().map(|(interface, _)| interface).collect();
    names.insert(MSG.into());
    Ok(ListAllInterfacesResponse { interface_names: names.into_iter().collect() })
}

/// Type URLs; none for an interface that nothing implements.
fn implementations(node: &Node, q: ListImplementationsRequest) -> Result<ListImplementationsResponse> {
    if q.interface_name.is_empty() {
        return Err(Status::invalid("interface_name is empty"));
    }
    let mut names: Vec<String> = match q.interface_name.as_str() {
        MSG => node.app.modules().messages.type_urls().map(str::to_owned).collect(),
        wanted => implementers().into_iter().filter(|(i, _)| i == wanted).map(|(_, url)| url).collect(),
    };
    names.sort_unstable();
    Ok(ListImplementationsResponse { implementation_message_names: names })
}

/// Interfaces with the type URLs of messages that declare to implement them.
fn implementers() -> Vec<(String, String)> {
    let pool = deepnode_proto::pool();
    let Some(option) = pool.get_extension_by_name("cosmos_proto.implements_interface") else {
        return Vec::new();
    };
    let mut found = Vec::new();
    for message in pool.all_messages() {
        let options = message.options();
        let names = options.get_extension(&option);
        for name in names.as_list().unwrap_or_default().iter().filter_map(Value::as_str) {
            found.push((name.to_owned(), format!("/{}", message.full_name())));
        }
    }
    found
}
