//! `casemate tokens` and `casemate whoami`.

use casemate_api::rest::{self, Token};
use casemate_verifier::UnixTime;

use crate::{
    args::{Format, Globals, NewToken, Tokens, TokensCommand, Whoami},
    client::Client,
    context::ContextFile,
    exit::Status,
    printer,
};

pub(crate) async fn run(globals: &Globals, args: Tokens) -> anyhow::Result<Status> {
    let client = Client::new(&ContextFile::load(globals)?)?;
    match args.command {
        TokensCommand::List { account, output } => {
            let list = client.tokens(account.as_deref()).await?;
            if globals.json || output == Format::Json {
                printer::json(&list)?;
                return Ok(Status::Ok);
            }
            let rows: Vec<Vec<String>> = list.tokens.iter().map(row).collect();
            printer::table(&["TOKEN", "NAME", "ENDS", "LIMITS"], &rows)?;
        }
        TokensCommand::Create(wanted) => {
            let made = client.make_token(&request(wanted)).await?;
            if globals.json {
                printer::json(&made)?;
            } else {
                eprintln!("{} ends {}; it is shown only now", made.info.id, ends(&made.info));
                println!("{}", printer::clean(&made.token));
            }
        }
        TokensCommand::Revoke { token, with_made } => {
            client.revoke_token(&token, with_made).await?;
            eprintln!("{token} is worth nothing any more");
        }
    }
    Ok(Status::Ok)
}

pub(crate) async fn whoami(globals: &Globals, args: Whoami) -> anyhow::Result<Status> {
    let me = Client::new(&ContextFile::load(globals)?)?.me().await?;
    if globals.json || args.output == Format::Json {
        printer::json(&me)?;
        return Ok(Status::Ok);
    }
    let rows = vec![
        vec!["roles".to_owned(), me.roles.join(", ")],
        vec!["projects".to_owned(), me.projects.join(", ")],
        vec!["token".to_owned(), me.token.id.clone()],
        vec!["ends".to_owned(), ends(&me.token)],
        vec!["limits".to_owned(), limits(&me.token)],
    ];
    printer::table(&["ACCOUNT", &me.account], &rows)?;
    Ok(Status::Ok)
}

fn request(wanted: NewToken) -> rest::NewToken {
    let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
    rest::NewToken {
        name: wanted.name,
        account: wanted.account,
        roles: some(wanted.roles),
        project: wanted.project,
        verbs: some(wanted.verbs),
        read_only: wanted.read_only,
        ttl_s: wanted.ttl_s,
    }
}

fn row(token: &Token) -> Vec<String> {
    vec![token.id.clone(), token.name.clone(), ends(token), limits(token)]
}

fn ends(token: &Token) -> String {
    match token.revoked_at_ms {
        Some(at_ms) => format!("revoked {}", UnixTime(at_ms / 1000)),
        None => UnixTime(token.expires_at_ms / 1000).to_string(),
    }
}

/// What it is limited to beside its account.
fn limits(token: &Token) -> String {
    let list = |name: &str, values: &Option<Vec<String>>| values.as_ref().map(|values| format!("{name} {}", values.join(" ")));
    let project = token.project.as_ref().map(|project| format!("project {project}"));
    let reads = token.read_only.then(|| "read-only".to_owned());
    let all = [list("roles", &token.roles), project, list("verbs", &token.verbs), reads];
    all.into_iter().flatten().collect::<Vec<_>>().join("; ")
}
