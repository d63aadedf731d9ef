//! Who may do what: one line for each route. What has no line is refused.
//!
//! A line says which roles come in at all. Whose objects they then see is decided where the object is found, and what one may not
//! see does not exist. docs/accounts.md has this table; a test compares them.

use http::Method;

use crate::{fault::Fault, service::Caller, store::Role};

/// One route.
#[derive(Debug)]
pub struct Rule {
    /// The method.
    pub method: Method,
    /// The path as the router knows it.
    pub path: &'static str,
    /// What it is called in tokens and in the audit record.
    pub verb: &'static str,
    /// Who comes in.
    pub who: Who,
}

/// Who comes in.
#[derive(Debug, Clone, Copy)]
pub enum Who {
    /// Everybody, without a token.
    Anybody,
    /// Who has one of these roles.
    Roles(&'static [Role], Within),
}

/// Whether a token of one project will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Within {
    /// It will.
    AProject,
    /// It is about more than projects.
    ThePlatform,
}

impl Rule {
    /// Whether it changes nothing.
    pub fn reads(&self) -> bool {
        matches!(self.method, Method::GET | Method::HEAD)
    }
}

/// The rule for a route. `HEAD` is answered wherever `GET` is.
pub fn rule(method: &Method, path: &str) -> Option<&'static Rule> {
    let find = |method: &Method| RULES.iter().find(|rule| rule.path == path && rule.method == *method);
    find(method).or_else(|| if *method == Method::HEAD { find(&Method::GET) } else { None })
}

/// Whether a token may be limited to this.
pub fn is_verb(text: &str) -> bool {
    RULES.iter().any(|rule| rule.verb == text && matches!(rule.who, Who::Roles(..)))
}

/// Refuses what neither the roles of the caller nor the limits of the token allow.
pub fn permit(caller: &Caller, rule: &Rule) -> Result<(), Fault> {
    let Who::Roles(roles, within) = rule.who else { return Ok(()) };
    let refuse = |why: String| Err(Fault::NotPermitted { verb: rule.verb, why });
    if !caller.roles.has_any(roles) {
        let names: Vec<&str> = roles.iter().map(|role| role.as_str()).collect();
        return refuse(format!("that needs the role {}", names.join(" or ")));
    }
    if caller.scope().read_only && !rule.reads() {
        return refuse("the token only reads".to_owned());
    }
    if caller.scope().verbs.as_ref().is_some_and(|verbs| !verbs.contains(rule.verb)) {
        return refuse("the token is limited to other verbs".to_owned());
    }
    if caller.scope().project.is_some() && within == Within::ThePlatform {
        return refuse("the token is limited to a project".to_owned());
    }
    Ok(())
}

const fn open(path: &'static str) -> Rule {
    Rule { method: Method::GET, path, verb: "public", who: Who::Anybody }
}

const fn project(method: Method, path: &'static str, verb: &'static str, roles: &'static [Role]) -> Rule {
    Rule { method, path, verb, who: Who::Roles(roles, Within::AProject) }
}

const fn platform(method: Method, path: &'static str, verb: &'static str, roles: &'static [Role]) -> Rule {
    Rule { method, path, verb, who: Who::Roles(roles, Within::ThePlatform) }
}

const ALL: &[Role] = &Role::OF_ACCOUNTS;
const TENANT: &[Role] = &[Role::Tenant];
const RUNS: &[Role] = &[Role::Tenant, Role::Operator];
const HOSTS: &[Role] = &[Role::Hoster, Role::Operator];
const OPERATOR: &[Role] = &[Role::Operator];

/// The table.
pub static RULES: [Rule; 63] = [
    open("/api/v1/platform"),
    open("/api/v1/openapi.json"),
    open("/api/v1/appraisals/keys"),
    open("/.well-known/jwks.json"),
    open("/metrics"),
    project(Method::GET, "/api/v1/me", "me.read", ALL),
    platform(Method::GET, "/api/v1/accounts", "accounts.read", OPERATOR),
    platform(Method::POST, "/api/v1/accounts", "accounts.write", OPERATOR),
    platform(Method::GET, "/api/v1/accounts/{name}", "accounts.read", OPERATOR),
    platform(Method::PUT, "/api/v1/accounts/{name}", "accounts.write", OPERATOR),
    project(Method::GET, "/api/v1/projects", "projects.read", RUNS),
    platform(Method::POST, "/api/v1/projects", "projects.write", RUNS),
    project(Method::GET, "/api/v1/projects/{id}", "projects.read", RUNS),
    platform(Method::PUT, "/api/v1/projects/{id}/members/{account}", "projects.write", RUNS),
    platform(Method::DELETE, "/api/v1/projects/{id}/members/{account}", "projects.write", RUNS),
    platform(Method::PUT, "/api/v1/projects/{id}/quota", "quotas.write", OPERATOR),
    platform(Method::GET, "/api/v1/tokens", "tokens.read", ALL),
    platform(Method::POST, "/api/v1/tokens", "tokens.write", ALL),
    platform(Method::DELETE, "/api/v1/tokens/{id}", "tokens.write", ALL),
    platform(Method::GET, "/api/v1/audit", "audit.read", ALL),
    project(Method::GET, "/api/v1/nodes", "nodes.read", ALL),
    platform(Method::GET, "/api/v1/nodes/{id}/instances", "nodes.read", HOSTS),
    platform(Method::PUT, "/api/v1/nodes/{id}/hoster", "nodes.give", OPERATOR),
    platform(Method::POST, "/api/v1/nodes/{id}/restore", "nodes.restore", OPERATOR),
    platform(Method::POST, "/api/v1/nodes/{id}/drain", "nodes.drain", HOSTS),
    platform(Method::POST, "/api/v1/nodes/{id}/undrain", "nodes.drain", HOSTS),
    platform(Method::GET, "/api/v1/nodes/{id}/maintenance", "nodes.read", HOSTS),
    platform(Method::POST, "/api/v1/nodes/{id}/maintenance", "nodes.maintain", HOSTS),
    platform(Method::POST, "/api/v1/nodes/{id}/maintenance/end", "nodes.maintain", HOSTS),
    platform(Method::GET, "/api/v1/incidents", "incidents.read", HOSTS),
    project(Method::GET, "/api/v1/notices", "notices.read", RUNS),
    project(Method::GET, "/api/v1/notices/{id}", "notices.read", RUNS),
    platform(Method::GET, "/api/v1/webhooks", "webhooks.read", ALL),
    platform(Method::POST, "/api/v1/webhooks", "webhooks.write", ALL),
    platform(Method::DELETE, "/api/v1/webhooks/{id}", "webhooks.write", ALL),
    platform(Method::POST, "/api/v1/webhooks/{id}/test", "webhooks.write", ALL),
    platform(Method::GET, "/api/v1/webhooks/{id}/deliveries", "webhooks.read", ALL),
    project(Method::GET, "/api/v1/offers", "offers.read", ALL),
    project(Method::GET, "/api/v1/offers/{node}", "offers.read", ALL),
    platform(Method::PUT, "/api/v1/offers/{node}", "offers.write", HOSTS),
    platform(Method::DELETE, "/api/v1/offers/{node}", "offers.write", HOSTS),
    platform(Method::POST, "/api/v1/bootstrap-tokens", "nodes.enrol", HOSTS),
    project(Method::HEAD, "/api/v1/blobs/{digest}", "blobs.read", RUNS),
    project(Method::PUT, "/api/v1/blobs/{digest}", "blobs.write", TENANT),
    project(Method::GET, "/api/v1/events", "instances.read", RUNS),
    project(Method::GET, "/api/v1/instances", "instances.read", RUNS),
    project(Method::POST, "/api/v1/instances", "instances.run", TENANT),
    project(Method::GET, "/api/v1/instances/{id}", "instances.read", RUNS),
    project(Method::DELETE, "/api/v1/instances/{id}", "instances.end", RUNS),
    project(Method::GET, "/api/v1/instances/{id}/events", "instances.read", RUNS),
    project(Method::POST, "/api/v1/instances/{id}/challenges", "instances.verify", RUNS),
    project(Method::POST, "/api/v1/instances/{id}/keys", "instances.run", TENANT),
    project(Method::GET, "/api/v1/instances/{id}/records", "instances.read", RUNS),
    project(Method::POST, "/api/v1/instances/{id}/stop", "instances.end", RUNS),
    project(Method::GET, "/api/v1/instances/{id}/receipt", "instances.read", RUNS),
    project(Method::GET, "/api/v1/instances/{id}/score-card", "instances.read", RUNS),
    project(Method::POST, "/api/v1/appraisals", "appraisals.make", ALL),
    project(Method::POST, "/api/v1/appraisals/challenges", "appraisals.make", ALL),
    project(Method::GET, "/api/v1/appraisals/revocations", "appraisals.read", ALL),
    platform(Method::PUT, "/api/v1/appraisals/revocations", "revocations.write", OPERATOR),
    project(Method::GET, "/api/v1/appraisals/policies/{name}", "appraisals.read", ALL),
    platform(Method::PUT, "/api/v1/appraisals/policies/{name}", "policies.write", OPERATOR),
    project(Method::GET, "/api/v1/appraisals/policies/{name}/versions", "appraisals.read", ALL),
];
