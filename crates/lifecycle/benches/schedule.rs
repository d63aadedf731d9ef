//! A placement among 100,000 offers, beside a plain scan over the same offers in the same run: `cargo bench -p casemate-lifecycle`.

#![allow(clippy::unwrap_used, reason = "a benchmark of what is known to be good")]

use std::{
    collections::BTreeMap,
    hint::black_box,
    time::{Duration, Instant},
};

use casemate_lifecycle::{
    NodeId,
    schedule::{
        Beside, Choice, Demand, GpuDemand, GpuGroup, Level, Market, NoNode, Offer, Place, Prefer, Prices, Room, Standing, Tier,
        fit,
    },
};

const OFFERS: u64 = 100_000;
const ROUNDS: u64 = 4000;
const SCANS: u64 = 60;

fn main() {
    let offers: Vec<Offer> = (0..OFFERS).map(offer).collect();
    let start = Instant::now();
    let market = Market::new(offers.clone());
    println!("{OFFERS} offers, all built in {:?}", start.elapsed());
    let ordinary: Vec<Demand> = (0..ROUNDS).map(|number| demand(number, None)).collect();
    let gpus: Vec<Demand> = (0..ROUNDS)
        .map(|number| {
            let model = ["H200", "A100", "L40S"][number as usize % 3].to_owned();
            let wanted = GpuDemand { model: Some(model), count: 1 << (number % 4), memory_mib: 40_000, linked: number % 2 == 0 };
            demand(number, Some(wanted))
        })
        .collect();
    let refused: Vec<Demand> =
        ordinary.iter().take(200).map(|demand| Demand { cpus: 64, most_per_hour: Some(1), ..demand.clone() }).collect();
    for (what, demands) in [("ordinary", &ordinary), ("with GPUs", &gpus), ("refused with reasons", &refused)] {
        let ours = times(demands.iter(), |demand| drop(black_box(market.select(demand))));
        let scans = times(demands.iter().take(SCANS as usize), |demand| drop(black_box(scan(&offers, demand))));
        demands.iter().take(SCANS as usize).for_each(|demand| assert_eq!(market.select(demand).ok(), scan(&offers, demand).ok()));
        println!(
            "{what}: median {:?}, p99 {:?}, worst {:?}; a scan {:?}; ratio of medians {:.4}",
            at(&ours, 50),
            at(&ours, 99),
            at(&ours, 100),
            at(&scans, 50),
            at(&ours, 50).as_secs_f64() / at(&scans, 50).as_secs_f64()
        );
    }
    fill(market);
}

/// Each placement takes its room: decisions and changes together, until 10,000 instances are there.
fn fill(mut market: Market) {
    const PLACEMENTS: u64 = 10_000;
    let demands: Vec<Demand> = (0..PLACEMENTS).map(|number| demand(number, None)).collect();
    let mut found = 0;
    let taken = times(demands.iter(), |demand| {
        if let Ok(Choice { node, fit }) = market.select(demand) {
            let mut offer = market.get(&node).unwrap().clone();
            offer.used.cpus += demand.cpus;
            offer.used.memory_mib += fit.memory_mib;
            market.put(offer);
            found += 1;
        }
    });
    let total: Duration = taken.iter().sum();
    println!(
        "placed {found} of {PLACEMENTS}, each with its room taken: median {:?}, p99 {:?}, {:.0} per second",
        at(&taken, 50),
        at(&taken, 99),
        PLACEMENTS as f64 / total.as_secs_f64()
    );
}

fn times<'a>(demands: impl Iterator<Item = &'a Demand>, mut run: impl FnMut(&'a Demand)) -> Vec<Duration> {
    let mut times: Vec<Duration> = demands
        .map(|demand| {
            let start = Instant::now();
            run(demand);
            start.elapsed()
        })
        .collect();
    times.sort_unstable();
    times
}

fn at(times: &[Duration], percent: usize) -> Duration {
    times[(times.len() - 1) * percent / 100]
}

fn scan(offers: &[Offer], demand: &Demand) -> Result<Choice, NoNode> {
    let mut why = NoNode::default();
    let mut best: Option<(casemate_lifecycle::schedule::Fit, &NodeId)> = None;
    for offer in offers {
        match fit(demand, offer) {
            Ok(fit) if best.is_none_or(|(known, id)| (fit.rank, &offer.node) < (known.rank, id)) => {
                best = Some((fit, &offer.node))
            }
            Ok(_) => {}
            Err(lack) => *why.0.entry(lack).or_default() += 1,
        }
    }
    best.map(|(fit, node)| Choice { node: node.clone(), fit }).ok_or(why)
}

/// Numbers that look drawn, the same in each run (splitmix64).
fn draw(seed: u64, of: u64) -> u64 {
    let mut z = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x1234_5678);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (z ^ (z >> 31)) % of
}

fn offer(number: u64) -> Offer {
    let roll = |salt: u64, of: u64| draw(number * 31 + salt, of);
    let cpus = [8, 16, 32, 64, 128][roll(1, 5) as usize];
    let memory_mib = cpus * 4096;
    let gpus = match roll(2, 4) {
        0 => Vec::new(),
        kind => {
            let (model, memory_mib) = [("H200", 141_000), ("A100", 80_000), ("L40S", 48_000)][kind as usize - 1];
            let group = |island| GpuGroup {
                model: model.into(),
                memory_mib,
                island,
                total: 4,
                used: roll(20 + u64::from(island), 5) as u32,
            };
            vec![group(0), group(1)]
        }
    };
    Offer {
        node: format!("n-{number:06}").parse().unwrap(),
        hoster: Some(format!("h-{}", roll(3, 500))),
        standing: [
            Standing::Ready,
            Standing::Ready,
            Standing::Ready,
            Standing::Ready,
            Standing::Disconnected,
            Standing::Suspended,
        ][roll(4, 6) as usize],
        tier: if roll(5, 5) == 0 { Tier::Simulated } else { Tier::Attested },
        levels: Level::ALL.into_iter().take(1 + roll(6, 4) as usize).collect(),
        networked: Level::ALL.into_iter().take(1 + roll(7, 3) as usize).collect(),
        total: Room { cpus, memory_mib, disk_mib: Some(2_000_000) },
        used: Room { cpus: roll(8, cpus * 4), memory_mib: roll(9, memory_mib), disk_mib: Some(roll(10, 1_000_000)) },
        gpus,
        place: ["eu/de/fra", "eu/fr/par", "eu/nl/ams", "us/va", "us/or", "ap/sg", "ap/jp/tyo", ""][roll(11, 8) as usize]
            .parse()
            .unwrap(),
        prices: Prices {
            cpu: 5_000 + roll(12, 20_000),
            memory_gib: 2_000 + roll(13, 3_000),
            disk_gib: 100,
            gpu: 900_000 + roll(14, 3_000_000),
        },
        labels: BTreeMap::from([("rack".into(), format!("r{}", roll(15, 40)))]),
    }
}

fn demand(number: u64, gpus: Option<GpuDemand>) -> Demand {
    let roll = |salt: u64, of: u64| draw(number * 37 + salt + 999_983, of);
    let place = |of: u64| ["", "", "eu", "eu/de", "us", "ap"][roll(of, 6) as usize].parse::<Place>().unwrap();
    Demand {
        level: Level::ALL[roll(1, 3) as usize],
        tier: if roll(2, 2) == 0 { Tier::Attested } else { Tier::Simulated },
        cpus: 1 << roll(3, 5),
        memory_mib: 1024 << roll(4, 6),
        scratch_mib: 20_000,
        network: roll(5, 2) == 0,
        gpus,
        node: None,
        within: place(6),
        most_per_hour: (roll(7, 3) == 0).then_some(20_000_000),
        labels: if roll(8, 10) == 0 { BTreeMap::from([("rack".into(), format!("r{}", roll(9, 40)))]) } else { BTreeMap::new() },
        near: place(10),
        prefer: if roll(11, 4) == 0 { Prefer::Spread } else { Prefer::Price },
        beside: Beside::default(),
    }
}
