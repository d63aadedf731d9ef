//! `casemate offers`.

use std::collections::BTreeMap;

use anyhow::Context as _;
use casemate_api::rest::{self, NewOffer, Offer, Prices};
use casemate_verifier::UnixTime;

use crate::{
    args::{Format, Globals, OfferSet, Offers, OffersCommand, OffersList, Placement},
    client::Client,
    context::ContextFile,
    exit::Status,
    money, printer,
};

pub(crate) async fn run(globals: &Globals, args: Offers) -> anyhow::Result<Status> {
    let client = Client::new(&ContextFile::load(globals)?)?;
    match args.command {
        OffersCommand::List(list) => {
            let limit = usize::try_from(list.limit).unwrap_or(usize::MAX);
            let offers = client.offers(&parameters(&list), limit).await?;
            if globals.json || list.output == Format::Json {
                printer::json(&offers)?;
            } else {
                let header = ["NODE", "STANDING", "TRUST", "PLACE", "CPUS", "MEMORY MIB", "LEVELS", "CPU/H", "GIB/H", "DISK/H"];
                printer::table(&header, &offers.offers.iter().map(line).collect::<Vec<_>>())?;
                if offers.next.is_some() {
                    eprintln!("there are more; see --limit");
                }
            }
        }
        OffersCommand::Show { node, output } => {
            let offer = client.offer(&node).await?;
            if globals.json || output == Format::Json { printer::json(&offer)? } else { show(&offer)? }
        }
        OffersCommand::Set(set) => {
            let (node, new) = (set.node.clone(), new_offer(set)?);
            let offer = client.set_offer(&node, &new).await?;
            if globals.json { printer::json(&offer)? } else { eprintln!("the offer of {node} has version {}", offer.version) }
        }
        OffersCommand::Withdraw { node } => {
            client.withdraw_offer(&node).await?;
            eprintln!("{node} takes no new work; what runs goes on");
        }
    }
    Ok(Status::Ok)
}

fn parameters(list: &OffersList) -> Vec<(&'static str, String)> {
    let texts = [
        ("level", list.level.clone()),
        ("trust_tier", list.trust_tier.clone()),
        ("within", list.within.clone()),
        ("gpu", list.gpu.clone()),
        ("label", list.label.clone()),
        ("cpus", list.cpus.map(|number| number.to_string())),
        ("memory_mib", list.memory_mib.map(|number| number.to_string())),
        ("most_per_hour", list.max_price.map(|price| price.to_string())),
        ("sort", Some(list.sort.clone())),
        ("ready", (!list.all).then(|| "true".to_owned())),
    ];
    texts.into_iter().filter_map(|(name, value)| Some((name, value?))).collect()
}

fn new_offer(set: OfferSet) -> anyhow::Result<NewOffer> {
    let prices = Prices { cpu: set.cpu_price, memory_gib: set.memory_price, disk_gib: set.disk_price, gpu: set.gpu_price };
    Ok(NewOffer {
        cpus: set.cpus,
        memory_mib: set.memory_mib,
        disk_mib: set.disk_mib,
        levels: (!set.levels.is_empty()).then_some(set.levels),
        gpus: Vec::new(),
        prices,
        place: set.place,
        labels: labels(&set.labels)?,
        ends_at_ms: set.ends_at.map(|end| end.0.saturating_mul(1000)),
        replaces: set.replaces,
    })
}

/// What a new instance asks of its offer; nothing where nothing was said.
pub(super) fn placement(args: &Placement) -> anyhow::Result<Option<rest::Placement>> {
    let wish = rest::Placement {
        trust_tier: args.trust_tier.clone(),
        within: args.within.clone(),
        near: args.near.clone(),
        most_per_hour: args.max_price,
        labels: labels(&args.labels)?,
        prefer: args.prefer.clone(),
    };
    Ok((wish != rest::Placement::default()).then_some(wish))
}

fn labels(texts: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let pair = |text: &String| {
        let (name, value) = text.split_once('=').with_context(|| format!("read label {text:?}: write NAME=VALUE"))?;
        Ok((name.to_owned(), value.to_owned()))
    };
    texts.iter().map(pair).collect()
}

fn line(offer: &Offer) -> Vec<String> {
    vec![
        offer.node.clone(),
        offer.standing.clone(),
        offer.trust_tier.clone(),
        if offer.place.is_empty() { "-".to_owned() } else { offer.place.clone() },
        format!("{} of {}", offer.free_cpus, offer.cpus),
        format!("{} of {}", offer.free_memory_mib, offer.memory_mib),
        offer.levels.join(","),
        money::text(offer.prices.cpu),
        money::text(offer.prices.memory_gib),
        money::text(offer.prices.disk_gib),
    ]
}

fn show(offer: &Offer) -> anyhow::Result<()> {
    let row = |name: &str, value: String| vec![name.to_owned(), value];
    let gpu = |gpu: &rest::GpuClaim| format!("{} x {} ({} MiB)", gpu.count, gpu.model, gpu.memory_mib);
    let gpus: Vec<String> = offer.gpus.iter().map(gpu).collect();
    let mut rows = vec![
        row("standing", offer.standing.clone()),
        row("trust", offer.trust_tier.clone()),
        row("levels", offer.levels.join(", ")),
        row("with a network", offer.levels_with_network.join(", ")),
        row("cpus", format!("{} ({} free)", offer.cpus, offer.free_cpus)),
        row("memory MiB", format!("{} ({} free)", offer.memory_mib, offer.free_memory_mib)),
        row("disk MiB", offer.disk_mib.map_or_else(|| "not measured".to_owned(), |disk| disk.to_string())),
        row("gpus", if gpus.is_empty() { "none".to_owned() } else { gpus.join(", ") }),
        row("measured by", offer.measured_by.clone()),
        row("place", offer.place.clone()),
        row("cpu per hour", money::text(offer.prices.cpu)),
        row("GiB memory per hour", money::text(offer.prices.memory_gib)),
        row("GiB disk per hour", money::text(offer.prices.disk_gib)),
        row("gpu per hour", money::text(offer.prices.gpu)),
        row("version", offer.version.to_string()),
    ];
    rows.extend(offer.hoster.iter().map(|hoster| row("hoster", hoster.clone())));
    rows.extend(offer.ends_at_ms.iter().map(|end| row("takes work until", UnixTime(end / 1000).to_string())));
    rows.extend(offer.labels.iter().map(|(name, value)| row(&format!("label {name}"), value.clone())));
    printer::table(&["OFFER OF", &offer.node], &rows)
}
