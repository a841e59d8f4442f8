//! Compiles the wire contract with protox, so that no `protoc` is needed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    const FILES: [&str; 4] = [
        "muster/v1/terminal.proto",
        "muster/v1/node.proto",
        "muster/v1/enrolment.proto",
        "muster/v1/control.proto",
    ];
    println!("cargo::rerun-if-changed=muster");
    let descriptors = protox::compile(FILES, ["."])?;
    // `bytes` fields become `bytes::Bytes`: output is passed on without a copy.
    tonic_prost_build::configure().bytes(".").compile_fds(descriptors)?;
    Ok(())
}
