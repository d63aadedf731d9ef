//! `casemate-server serve | token | openapi`.

use std::{
    io::{self, Write as _},
    path::PathBuf,
    time::Duration,
};

use anyhow::Context as _;
use casemate_daemon::{config, memory, shutdown, telemetry, tls};
use casemate_server::{
    config::Config,
    files, rest,
    server::Server,
    service::make_token,
    store::{Role, Store},
};
use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "casemate-server", version, about = "The platform of Casemate")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve until SIGTERM.
    Serve {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
        /// Roles, instead of those of the configuration: api,nodes,verifier or verifier.
        #[arg(long, value_delimiter = ',')]
        roles: Option<Vec<String>>,
    },
    /// Make a token and print it; it is stored as a hash only. Works while the server runs.
    Token {
        /// The configuration file.
        #[arg(long)]
        config: PathBuf,
        /// tenant, hoster, operator or bootstrap. The token acts in this role only.
        #[arg(long)]
        role: Role,
        /// The account that holds it, made if need be; a new one when absent. Tokens of one account see the same instances.
        #[arg(long)]
        subject: Option<String>,
        /// Life of the token [default: 60 for bootstrap, 30 days for others]
        #[arg(long)]
        ttl_minutes: Option<u64>,
    },
    /// Print the description of the REST API (docs/api/openapi.json).
    Openapi,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    memory::forbid_dumps().context("forbid core dumps")?;
    match Arguments::parse().command {
        Command::Serve { config, roles } => serve(config, roles).await,
        Command::Token { config, role, subject, ttl_minutes } => token(config, role, subject, ttl_minutes).await,
        Command::Openapi => {
            // Whoever reads it may have seen enough.
            match io::stdout().write_all(rest::openapi_json().as_bytes()) {
                Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error).context("print the description"),
                _ => Ok(()),
            }
        }
    }
}

async fn serve(path: PathBuf, roles: Option<Vec<String>>) -> anyhow::Result<()> {
    telemetry::init("casemate-server");
    tls::install_provider();
    let mut config = config::load::<Config>(&path)?;
    config.roles = roles.unwrap_or(config.roles);
    let settings = config.check().with_context(|| format!("check configuration {}", path.display()))?;
    let server = Server::start(settings, shutdown::signal()).await?;
    server.wait().await;
    Ok(())
}

async fn token(path: PathBuf, role: Role, subject: Option<String>, ttl_minutes: Option<u64>) -> anyhow::Result<()> {
    let config = config::load::<Config>(&path)?;
    files::private_dir(&config.data_dir)?;
    let store = Store::open(&config.store_access()?).await?;
    let life = ttl_minutes.map(|minutes| Duration::from_secs(minutes.saturating_mul(60)));
    let (token, _) = make_token(&store, role, subject, life).await?;
    store.close().await;
    println!("{token}");
    Ok(())
}
