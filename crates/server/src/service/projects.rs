//! Projects, their members and their quotas.

use casemate_api::rest;

use super::{
    Caller,
    accounts::{Accounts, label},
    random,
};
use crate::{
    clock::now_ms,
    fault::Fault,
    life::clipped,
    store::{MemberChange, MemberRole, Project, Quota, Role},
};

/// Largest quota: what columns hold.
const MAX_QUOTA: u64 = i64::MAX as u64;

impl Accounts {
    /// Makes a project; the caller owns it.
    pub async fn make_project(&self, caller: &Caller, new: rest::NewProject) -> Result<rest::Project, Fault> {
        label("name", &new.name, 1)?;
        let id = format!("p-{}", hex::encode(random::<8>()?));
        let project = Project { id: id.clone(), name: new.name, created_at_ms: now_ms(), quota: Quota::default() };
        self.store.insert_project(&project, &caller.account).await?;
        self.view(project).await
    }

    /// The caller's projects; all of them for an operator.
    pub async fn projects(&self, caller: &Caller) -> Result<rest::Projects, Fault> {
        let member = (!caller.is(Role::Operator)).then_some(caller.account.as_str());
        let only = caller.scope().project.as_ref();
        let projects = self.store.projects(member).await?.into_iter();
        let projects = projects.filter(|project| only.is_none_or(|only| project.id == *only));
        Ok(rest::Projects { projects: projects.map(|one| rest::ProjectHead { id: one.id, name: one.name }).collect() })
    }

    /// One project.
    pub async fn project(&self, caller: &Caller, id: &str) -> Result<rest::Project, Fault> {
        let (project, _) = self.find(caller, id).await?;
        self.view(project).await
    }

    /// Makes an account a member, or with `None` no member any more. Needs an owner, or an operator.
    pub async fn set_member(
        &self,
        caller: &Caller,
        id: &str,
        account: &str,
        membership: Option<rest::Membership>,
    ) -> Result<(), Fault> {
        let (project, own) = self.find(caller, id).await?;
        if own != Some(MemberRole::Owner) && !caller.is(Role::Operator) {
            return Err(Fault::Forbidden("change the members of this project; that needs one of its owners"));
        }
        let invalid = |detail| Fault::Invalid { what: "role", detail, hint: "send {\"role\": \"member\"}" };
        let role = membership.map(|wanted| wanted.role.parse().map_err(invalid)).transpose()?;
        match self.store.set_member(&project.id, account, role).await? {
            MemberChange::Done => Ok(()),
            MemberChange::Unknown => Err(Fault::NotFound { what: "account", id: clipped(account, 80) }),
            MemberChange::LastOwner => {
                Err(Fault::Conflict { detail: "this is the last owner of the project; make another one first".to_owned() })
            }
        }
    }

    /// Limits what a project may have. Needs an operator.
    pub async fn set_quota(&self, caller: &Caller, id: &str, quota: rest::Quota) -> Result<(), Fault> {
        caller.must_operate("set quotas; that needs an operator's token")?;
        let (project, _) = self.find(caller, id).await?;
        let quota = Quota { instances: quota.instances, cpus: quota.cpus, memory_mib: quota.memory_mib };
        if [quota.instances, quota.cpus, quota.memory_mib].into_iter().flatten().any(|limit| limit > MAX_QUOTA) {
            let detail = format!("each is {MAX_QUOTA} at the most");
            return Err(Fault::Invalid { what: "quota", detail, hint: "leave out what is not to be limited" });
        }
        self.store.set_quota(&project.id, &quota).await.map(drop).map_err(Fault::from)
    }

    /// A project that the caller may see, and what he is in it; others do not exist.
    async fn find(&self, caller: &Caller, id: &str) -> Result<(Project, Option<MemberRole>), Fault> {
        let only = caller.scope().project.as_deref();
        let project = self.store.project(id).await?.filter(|_| only.is_none_or(|only| only == id));
        let project = project.ok_or_else(|| unknown_project(id))?;
        let own = self.store.membership(id, &caller.account).await?;
        if own.is_some() || caller.is(Role::Operator) { Ok((project, own)) } else { Err(unknown_project(id)) }
    }

    async fn view(&self, project: Project) -> Result<rest::Project, Fault> {
        let (quota, usage) = (project.quota.or(self.quota), self.store.usage(&project.id).await?);
        let members = self.store.members(&project.id).await?.into_iter();
        Ok(rest::Project {
            id: project.id,
            name: project.name,
            created_at_ms: project.created_at_ms,
            quota: rest::Quota { instances: quota.instances, cpus: quota.cpus, memory_mib: quota.memory_mib },
            usage: rest::Usage { instances: usage.instances, cpus: usage.cpus, memory_mib: usage.memory_mib },
            members: members.map(|(account, role)| rest::Member { account, role: role.as_str().to_owned() }).collect(),
        })
    }
}

pub(super) fn unknown_project(id: &str) -> Fault {
    Fault::NotFound { what: "project", id: clipped(id, 80) }
}
