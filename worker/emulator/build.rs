//! Compiles the emulator together with the kernels that it runs.

fn main() {
    let kernels = "../kernels";
    println!("cargo:rerun-if-changed={kernels}");
    println!("cargo:rerun-if-changed=cpp");
    let mut build = cc::Build::new();
    // Where the machine that builds, which runs the tests, has the instruction: else fmaf is a call, with the same bits.
    #[cfg(target_arch = "x86_64")]
    if std::is_x86_feature_detected!("fma") && std::env::var("TARGET") == std::env::var("HOST") {
        build.flag("-mfma");
    }
    build
        .cpp(true)
        .std("c++17")
        .opt_level(2)
        .debug(false)
        .include("cpp")
        .include(kernels)
        // As nvcc's -fmad=false: a product and a sum are two roundings.
        .flag("-ffp-contract=off")
        // The kernels read halves as 16-byte vectors.
        .flag("-fno-strict-aliasing")
        .flag_if_supported("-Wno-unknown-pragmas")
        .files(["cpp/emulator.cpp", "cpp/kernels.cpp"]);
    let objects = build.compile_intermediates();
    cc::Build::new().cpp(true).objects(&objects).compile("deepnode_emulator");

    // By its name, which Linux knows it by; a program without a dynamic linker could not load it.
    let of_target = |what: &str| std::env::var(format!("CARGO_CFG_TARGET_{what}")).unwrap_or_default();
    let is_static = of_target("FEATURE").split(',').any(|feature| feature == "crt-static");
    if of_target("OS") == "linux" && !is_static {
        // In a folder of its own: cargo lets tests, and what they start, find the libraries of OUT_DIR, and only one test is
        // to see a card.
        let folder = format!("{}/driver", std::env::var("OUT_DIR").expect("cargo sets it"));
        std::fs::create_dir_all(&folder).expect("OUT_DIR is writable");
        let library = format!("{folder}/libcuda.so");
        let mut link = build.get_compiler().to_command();
        link.args(["-shared", "-Wl,-soname,libcuda.so", "-o", &library, "cpp/driver.cpp"]).args(objects);
        assert!(link.status().expect("a C++ compiler").success(), "{library}");
    }
}
