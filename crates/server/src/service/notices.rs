//! What tenants are told of the nodes that have or had their instances.

use casemate_api::rest;

use super::{Caller, Service, records::receipt_view};
use crate::{
    fault::Fault,
    life::clipped,
    store::{Notice, Role, Whose},
};

/// Notices in one answer unless told otherwise, and at the most.
const PAGE: u32 = 50;
const MAX_PAGE: u32 = 100;
/// Most instances whose end is shown with a notice.
const MAX_ENDINGS: usize = 100;

impl Service {
    /// The newest notices before this number; of one instance, or all of the caller's projects.
    pub async fn notices(
        &self,
        caller: &Caller,
        instance: Option<&str>,
        before: Option<u64>,
        limit: Option<u32>,
    ) -> Result<rest::Notices, Fault> {
        let limit = limit.unwrap_or(PAGE);
        if !(1..=MAX_PAGE).contains(&limit) {
            let detail = format!("must be 1 to {MAX_PAGE}, got {limit}");
            return Err(Fault::Invalid { what: "limit", detail, hint: "leave it out, or ask page by page with `before`" });
        }
        // The instance may be forgotten: nothing is looked up, and what is another's has no notices here.
        let unknown = |_| Fault::NotFound { what: "instance", id: clipped(instance.unwrap_or_default(), 100) };
        let instance = instance.map(str::parse).transpose().map_err(unknown)?;
        let before = before.unwrap_or(i64::MAX as u64);
        let notices = self.store().notices(told(caller)?, instance.as_ref(), before, limit).await?;
        let next = notices.last().filter(|_| notices.len() == limit as usize).map(|one| one.seq);
        Ok(rest::Notices { notices: notices.into_iter().map(notice_view).collect(), next })
    }

    /// One notice with its evidence, and how the instances are now.
    pub async fn notice(&self, caller: &Caller, id: &str) -> Result<rest::Notice, Fault> {
        let absent = || Fault::NotFound { what: "notice", id: clipped(id, 80) };
        let notice = self.store().notice(told(caller)?, id).await?.ok_or_else(absent)?;
        let instances = notice.instances.clone();
        let mut view = notice_view(notice);
        for id in instances.iter().take(MAX_ENDINGS) {
            let Some(instance) = self.store().instance(id).await? else { continue };
            let (failure, receipt) = (instance.actual.failure, self.store().receipt(id).await?);
            view.endings.push(rest::Ending {
                instance: id.to_string(),
                step: instance.actual.step.to_string(),
                failure: failure.map(|one| rest::Failure { step: one.step.to_string(), check: one.check, detail: one.detail }),
                receipt: receipt.map(receipt_view),
            });
        }
        Ok(view)
    }
}

/// Whose notices they are. Hosters are told by the incidents of their nodes, not by what tenants are told.
fn told(caller: &Caller) -> Result<Whose<'_>, Fault> {
    let may = caller.is(Role::Tenant) || caller.is(Role::Operator);
    if may { Ok(caller.sees()) } else { Err(Fault::Forbidden("see notices; they are for tenants")) }
}

pub(super) fn notice_view(notice: Notice) -> rest::Notice {
    let occasion = notice.occasion;
    rest::Notice {
        id: notice.id,
        seq: notice.seq,
        kind: occasion.kind.as_str().to_owned(),
        project: notice.project,
        node: occasion.node.to_string(),
        instances: notice.instances.iter().map(ToString::to_string).collect(),
        text: occasion.kind.words().to_owned(),
        detail: occasion.detail,
        at_ms: occasion.at_ms,
        node_at_ms: occasion.node_at_ms,
        evidence: occasion.evidence,
        endings: Vec::new(),
    }
}
