//! `casemate accounts`.

use casemate_api::rest::{Account, AccountUpdate, NewAccount};

use crate::{
    args::{Accounts, AccountsCommand, Format, Globals},
    client::Client,
    context::ContextFile,
    exit::Status,
    printer,
};

pub(crate) async fn run(globals: &Globals, args: Accounts) -> anyhow::Result<Status> {
    let client = Client::new(&ContextFile::load(globals)?)?;
    match args.command {
        AccountsCommand::List { output } => {
            let list = client.accounts().await?;
            if globals.json || output == Format::Json {
                printer::json(&list)?;
            } else {
                table(list.accounts)?;
            }
        }
        AccountsCommand::Create { name, roles } => show(globals, client.make_account(&NewAccount { name, roles }).await?)?,
        AccountsCommand::Set { name, roles } => {
            show(globals, client.change_account(&name, &AccountUpdate { roles, disabled: false }).await?)?;
        }
        AccountsCommand::Disable { name } => {
            let roles = client.account(&name).await?.roles;
            show(globals, client.change_account(&name, &AccountUpdate { roles, disabled: true }).await?)?;
        }
    }
    Ok(Status::Ok)
}

fn show(globals: &Globals, account: Account) -> anyhow::Result<()> {
    if globals.json { printer::json(&account) } else { table(vec![account]) }
}

fn table(accounts: Vec<Account>) -> anyhow::Result<()> {
    let rows: Vec<Vec<String>> = accounts
        .into_iter()
        .map(|one| vec![one.name, one.roles.join(", "), if one.disabled { "disabled" } else { "" }.to_owned()])
        .collect();
    printer::table(&["ACCOUNT", "ROLES", "STATE"], &rows)
}
