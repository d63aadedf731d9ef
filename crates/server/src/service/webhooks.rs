//! Webhooks: who may have which, and what became of their calls.

use casemate_api::rest;

use super::{Caller, Service, projects::unknown_project, random};
use crate::{
    clock::now_ms,
    fault::Fault,
    life::clipped,
    store::{Delivery, DeliveryState, MemberRole, OccasionKind, Role, Scope, Webhook, WebhooksOf},
    webhooks::{Secret, checked_url},
};

/// Most webhooks of a project, a hoster or the platform.
const MAX_WEBHOOKS: u64 = 10;
/// Most tests of a webhook that wait at the same time.
const MAX_TESTS: u64 = 5;

impl Service {
    /// Makes a webhook; its secret is in the answer and nowhere else.
    pub async fn make_webhook(&self, caller: &Caller, new: rest::NewWebhook) -> Result<rest::MadeWebhook, Fault> {
        let scope = self.scope_of(caller, &new).await?;
        let invalid = |what, detail: String| Fault::Invalid { what, detail, hint: "docs/webhooks.md tells what can be called" };
        checked_url(&new.url, self.0.parts.sender.reach()).map_err(|why| invalid("url", why.to_owned()))?;
        let mut kinds = Vec::new();
        for kind in &new.kinds {
            let kind: OccasionKind = kind.parse().map_err(|why| invalid("kinds", why))?;
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        if kinds.is_empty() {
            kinds.extend(OccasionKind::ALL);
        }
        let webhook = Webhook {
            id: format!("wh-{}", hex::encode(random::<8>()?)),
            scope,
            url: new.url,
            kinds,
            secret: Secret::new(random::<32>()?),
            made_by: caller.account.clone(),
            created_at_ms: now_ms(),
        };
        if !self.store().insert_webhook(&webhook, MAX_WEBHOOKS).await? {
            return Err(Fault::Conflict { detail: format!("there are {MAX_WEBHOOKS} webhooks already; remove one first") });
        }
        tracing::info!(webhook.id = webhook.id, by = caller.account, scope = webhook.scope.as_str(), "a webhook was made");
        Ok(rest::MadeWebhook { secret: webhook.secret.reveal(), webhook: view(webhook) })
    }

    /// Those that the caller may see.
    pub async fn webhooks(&self, caller: &Caller) -> Result<rest::Webhooks, Fault> {
        let of = WebhooksOf {
            member: caller.is(Role::Tenant).then_some(caller.account.as_str()),
            hoster: caller.is(Role::Hoster).then_some(caller.account.as_str()),
            all: caller.is(Role::Operator),
        };
        Ok(rest::Webhooks { webhooks: self.store().webhooks(of).await?.into_iter().map(view).collect() })
    }

    /// Forgets one.
    pub async fn remove_webhook(&self, caller: &Caller, id: &str) -> Result<(), Fault> {
        let webhook = self.webhook_to_change(caller, id).await?;
        if self.store().remove_webhook(&webhook.id).await? { Ok(()) } else { Err(unknown(id)) }
    }

    /// Queues a call that tells of nothing.
    pub async fn test_webhook(&self, caller: &Caller, id: &str) -> Result<rest::Queued, Fault> {
        let webhook = self.webhook_to_change(caller, id).await?;
        let queued = self.store().queue_test(&webhook.id, now_ms(), MAX_TESTS).await?;
        queued.map(|delivery| rest::Queued { delivery }).ok_or(Fault::Busy("tests of a webhook"))
    }

    /// What became of its calls, newest first.
    pub async fn webhook_deliveries(&self, caller: &Caller, id: &str) -> Result<rest::Deliveries, Fault> {
        let webhook = self.seen_webhook(caller, id).await?.0;
        let deliveries = self.store().deliveries(&webhook.id).await?.into_iter().map(delivery_view).collect();
        Ok(rest::Deliveries { deliveries })
    }

    /// For whose events a new one is, if the caller may have that.
    async fn scope_of(&self, caller: &Caller, new: &rest::NewWebhook) -> Result<Scope, Fault> {
        let invalid = |detail: &str| Fault::Invalid {
            what: "scope",
            detail: detail.to_owned(),
            hint: "send `project`, `hoster` or `platform`",
        };
        let scope = new.scope.as_deref().unwrap_or("project");
        if scope != "project" && new.project.is_some() {
            return Err(invalid("only a webhook of a project has a project"));
        }
        match scope {
            "project" if caller.is(Role::Tenant) => {
                let project = new.project.as_deref().unwrap_or(&caller.account);
                match self.store().membership(project, &caller.account).await? {
                    Some(MemberRole::Owner) => Ok(Scope::Project(project.to_owned())),
                    Some(MemberRole::Member) => Err(Fault::Forbidden(OWNER)),
                    None => Err(unknown_project(project)),
                }
            }
            "project" => Err(Fault::Forbidden("have a webhook of a project; that needs a tenant's token")),
            "hoster" if caller.is(Role::Hoster) => Ok(Scope::Hoster(caller.account.clone())),
            "hoster" => Err(Fault::Forbidden("have a webhook of a hoster; that needs a hoster's token")),
            "platform" => {
                caller.must_operate("have a webhook of the platform; that needs an operator's token")?;
                Ok(Scope::Platform)
            }
            _ => Err(invalid("there is no such scope")),
        }
    }

    async fn webhook_to_change(&self, caller: &Caller, id: &str) -> Result<Webhook, Fault> {
        let (webhook, may_change) = self.seen_webhook(caller, id).await?;
        if may_change { Ok(webhook) } else { Err(Fault::Forbidden(OWNER)) }
    }

    /// A webhook that the caller may see, and whether he may change it; others do not exist.
    async fn seen_webhook(&self, caller: &Caller, id: &str) -> Result<(Webhook, bool), Fault> {
        let webhook = self.store().webhook(id).await?.ok_or_else(|| unknown(id))?;
        let operates = caller.is(Role::Operator);
        let (sees, may_change) = match &webhook.scope {
            Scope::Project(project) if caller.is(Role::Tenant) => {
                let own = self.store().membership(project, &caller.account).await?;
                (own.is_some(), own == Some(MemberRole::Owner))
            }
            Scope::Hoster(hoster) if caller.is(Role::Hoster) => (*hoster == caller.account, *hoster == caller.account),
            Scope::Project(_) | Scope::Hoster(_) | Scope::Platform => (false, false),
        };
        if sees || operates { Ok((webhook, may_change || operates)) } else { Err(unknown(id)) }
    }
}

fn unknown(id: &str) -> Fault {
    Fault::NotFound { what: "webhook", id: clipped(id, 80) }
}

fn view(webhook: Webhook) -> rest::Webhook {
    rest::Webhook {
        id: webhook.id,
        url: webhook.url,
        kinds: webhook.kinds.iter().map(|kind| kind.as_str().to_owned()).collect(),
        scope: webhook.scope.as_str().to_owned(),
        owner: webhook.scope.owner().to_owned(),
        made_by: webhook.made_by,
        created_at_ms: webhook.created_at_ms,
    }
}

fn delivery_view(delivery: Delivery) -> rest::Delivery {
    rest::Delivery {
        id: delivery.id,
        kind: delivery.kind,
        state: delivery.state.as_str().to_owned(),
        attempts: delivery.attempts,
        status: delivery.status.and_then(|status| u16::try_from(status).ok()),
        error: delivery.error,
        created_at_ms: delivery.created_at_ms,
        next_at_ms: (delivery.state == DeliveryState::Waiting).then_some(delivery.next_at_ms),
    }
}

const OWNER: &str = "change the webhooks of this project; that needs one of its owners";
