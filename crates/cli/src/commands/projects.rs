//! `casemate projects`.

use casemate_api::rest::{Project, Quota};

use crate::{
    args::{Format, Globals, Projects, ProjectsCommand},
    client::Client,
    context::ContextFile,
    exit::Status,
    printer,
};

pub(crate) async fn run(globals: &Globals, args: Projects) -> anyhow::Result<Status> {
    let client = Client::new(&ContextFile::load(globals)?)?;
    match args.command {
        ProjectsCommand::List { output } => {
            let list = client.projects().await?;
            if globals.json || output == Format::Json {
                printer::json(&list)?;
            } else {
                let rows: Vec<Vec<String>> = list.projects.into_iter().map(|one| vec![one.id, one.name]).collect();
                printer::table(&["PROJECT", "NAME"], &rows)?;
            }
        }
        ProjectsCommand::Show { project, output } => {
            let project = client.project(&project).await?;
            if globals.json || output == Format::Json { printer::json(&project)? } else { show(&project)? }
        }
        ProjectsCommand::Create { name } => {
            let project = client.make_project(name).await?;
            if globals.json { printer::json(&project)? } else { println!("{}", printer::clean(&project.id)) }
        }
        ProjectsCommand::Add { project, account, owner } => {
            client.set_member(&project, &account, Some(if owner { "owner" } else { "member" })).await?;
            eprintln!("{account} is in {project}");
        }
        ProjectsCommand::Remove { project, account } => {
            client.set_member(&project, &account, None).await?;
            eprintln!("{account} is not in {project} any more");
        }
        ProjectsCommand::Quota { project, limits } => {
            let quota = Quota { instances: limits.instances, cpus: limits.cpus, memory_mib: limits.memory_mib };
            client.set_quota(&project, &quota).await?;
            eprintln!("the quota of {project} is set; what runs goes on");
        }
    }
    Ok(Status::Ok)
}

fn show(project: &Project) -> anyhow::Result<()> {
    let of = |used: u64, limit: Option<u64>| match limit {
        Some(limit) => format!("{used} of {limit}"),
        None => format!("{used}, not limited"),
    };
    let (used, quota) = (&project.usage, &project.quota);
    let mut rows = vec![
        vec!["name".to_owned(), project.name.clone()],
        vec!["instances".to_owned(), of(used.instances, quota.instances)],
        vec!["cpus".to_owned(), of(used.cpus, quota.cpus)],
        vec!["memory MiB".to_owned(), of(used.memory_mib, quota.memory_mib)],
    ];
    rows.extend(project.members.iter().map(|member| vec![member.role.clone(), member.account.clone()]));
    printer::table(&["PROJECT", &project.id], &rows)
}
