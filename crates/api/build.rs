//! Compiles the `.proto` files in pure Rust.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let grpc = std::env::var_os("CARGO_FEATURE_NODE").is_some();
    let guest = protox::compile(["guest.proto"], ["proto"])?;
    tonic_prost_build::configure().build_client(false).build_server(false).compile_fds(guest)?;
    if grpc {
        let node = protox::compile(["node.proto"], ["proto"])?;
        tonic_prost_build::configure().compile_fds(node)?;
    }
    Ok(())
}
