//! `casemate webhooks`.

use std::time::Duration;

use casemate_api::rest::{Delivery, NewWebhook};
use casemate_verifier::UnixTime;

use crate::{
    args::{Format, Globals, WebhookAdd, Webhooks, WebhooksCommand},
    client::Client,
    context::ContextFile,
    exit::{Hinted, Status},
    printer,
};

/// How often it is looked what came of a test, and the time between: a call takes 10 s at the most.
const LOOKS: u32 = 80;
const PAUSE: Duration = Duration::from_millis(250);

pub(crate) async fn run(globals: &Globals, args: Webhooks) -> anyhow::Result<Status> {
    let client = Client::new(&ContextFile::load(globals)?)?;
    match args.command {
        WebhooksCommand::Add(add) => make(globals, &client, add).await?,
        WebhooksCommand::List { output } => list(globals, &client, output).await?,
        WebhooksCommand::Remove { webhook } => {
            client.remove_webhook(&webhook).await?;
            eprintln!("{webhook} is not called any more");
        }
        WebhooksCommand::Test { webhook } => test(globals, &client, &webhook).await?,
        WebhooksCommand::Deliveries { webhook, output } => {
            let list = client.deliveries(&webhook).await?;
            if globals.json || output == Format::Json {
                printer::json(&list)?;
            } else {
                let rows: Vec<_> = list.deliveries.iter().map(line).collect();
                printer::table(&["DELIVERY", "KIND", "QUEUED", "STATE", "ATTEMPTS", "STATUS", "NEXT", "WHY"], &rows)?;
            }
        }
    }
    Ok(Status::Ok)
}

async fn make(globals: &Globals, client: &Client, add: WebhookAdd) -> anyhow::Result<()> {
    let WebhookAdd { url, kinds, scope, project } = add;
    let made = client.make_webhook(&NewWebhook { url, kinds, scope: Some(scope.as_str().to_owned()), project }).await?;
    if globals.json {
        return printer::json(&made);
    }
    println!("{}", printer::clean(&made.secret));
    eprintln!(
        "{} is called for {}; the line above is its secret, which is shown once",
        made.webhook.id,
        made.webhook.kinds.join(", ")
    );
    Ok(())
}

async fn list(globals: &Globals, client: &Client, output: Format) -> anyhow::Result<()> {
    let list = client.webhooks().await?;
    if globals.json || output == Format::Json {
        return printer::json(&list);
    }
    let rows: Vec<Vec<String>> = list
        .webhooks
        .into_iter()
        .map(|one| vec![one.id, one.scope, one.owner, one.kinds.join(","), one.url, one.made_by])
        .collect();
    printer::table(&["WEBHOOK", "SCOPE", "OF", "KINDS", "URL", "MADE BY"], &rows)
}

/// Waits for the first attempt.
async fn test(globals: &Globals, client: &Client, webhook: &str) -> anyhow::Result<()> {
    let queued = client.test_webhook(webhook).await?.delivery;
    for _ in 0..LOOKS {
        let found = client.deliveries(webhook).await?.deliveries.into_iter().find(|one| one.id == queued);
        let tried = found.filter(|one| one.state == "delivered" || one.error.is_some());
        let Some(delivery) = tried else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        if globals.json {
            printer::json(&delivery)?;
        }
        if delivery.state == "delivered" {
            eprintln!("it was called, and answered {}", delivery.status.unwrap_or_default());
            return Ok(());
        }
        let why = printer::clean(delivery.error.as_deref().unwrap_or_default());
        let hint = format!("it is tried again; `casemate webhooks deliveries {webhook}` shows what comes of it");
        return Err(Hinted { message: format!("the call failed: {why}"), hint }.into());
    }
    let hint = format!("`casemate webhooks deliveries {webhook}` shows what comes of it");
    Err(Hinted { message: "it was not called yet".to_owned(), hint }.into())
}

fn line(one: &Delivery) -> Vec<String> {
    let time = |at_ms: u64| UnixTime(at_ms / 1000).to_string();
    vec![
        one.id.clone(),
        one.kind.clone(),
        time(one.created_at_ms),
        one.state.clone(),
        one.attempts.to_string(),
        one.status.map_or_else(|| "-".to_owned(), |status| status.to_string()),
        one.next_at_ms.map_or_else(|| "-".to_owned(), time),
        one.error.clone().unwrap_or_default(),
    ]
}
