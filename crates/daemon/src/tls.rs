//! The one cryptographic provider of the process.

/// Makes ring the provider of every TLS connection of this process; later calls do nothing.
pub fn install_provider() {
    // An error says that a provider is installed already; there is only this one in the build.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
