//! Compiles every file under proto/ into one descriptor set and generates Rust from it.
//! The set keeps the custom options (http paths, amino names, signers): reflection, REST and amino JSON read them.

use std::path::{Path, PathBuf};

/// What Rust needs no types for: options are read from the descriptors.
const OPTIONS_ONLY: [&str; 6] =
    ["amino", "cosmos.msg.v1", "cosmos.query.v1", "cosmos_proto", "gogoproto", "google.api"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new("proto");
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();

    let mut compiler = protox::Compiler::new([root])?;
    compiler.include_imports(true).include_source_info(false).open_files(&files)?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;

    let mut set = compiler.file_descriptor_set();
    set.file.retain(|file| !OPTIONS_ONLY.contains(&file.package()));
    rename_clashing_oneofs(&mut set);
    let mut config = prost_build::Config::new();
    config.btree_map(["."]).enable_type_names().include_file("modules.rs");
    tonic_build::configure()
        .build_transport(false)
        .generate_default_stubs(true)
        .client_mod_attribute(".", "#[cfg(feature = \"client\")]")
        .server_mod_attribute(".", "#[cfg(feature = \"server\")]")
        .extern_path(".tendermint", "::tendermint_proto::v0_38")
        .compile_fds_with_config(config, set)?;
    Ok(())
}

/// A oneof and a nested message of one name become one Rust name. The oneof yields: its name is not on the wire,
/// and the descriptor set of reflection keeps it (StakeAuthorization's `validators` becomes `validators_choice`).
fn rename_clashing_oneofs(set: &mut prost_types::FileDescriptorSet) {
    for message in set.file.iter_mut().flat_map(|file| &mut file.message_type) {
        let nested: Vec<String> = message.nested_type.iter().map(|m| m.name().to_lowercase()).collect();
        for oneof in &mut message.oneof_decl {
            if nested.contains(&oneof.name().replace('_', "")) {
                oneof.name = Some(format!("{}_choice", oneof.name()));
            }
        }
    }
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            files.push(path);
        }
    }
    Ok(())
}
