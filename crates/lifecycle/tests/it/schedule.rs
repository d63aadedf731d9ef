//! The market's answer is that of a plain scan, whatever happened to it before.

use std::collections::BTreeMap;

use casemate_lifecycle::{
    NodeId,
    schedule::{
        Beside, Choice, Demand, GpuDemand, GpuGroup, Lack, Level, Levels, Market, NoNode, Offer, Place, Prefer, Prices, Room,
        Standing, Tier, fit,
    },
};
use proptest::prelude::*;

fn id(number: usize) -> NodeId {
    format!("n-{number:03}").parse().unwrap()
}

/// What anybody can see to be right.
fn scan(offers: &BTreeMap<NodeId, Offer>, demand: &Demand) -> Result<Choice, NoNode> {
    let mut why = NoNode::default();
    let mut best: Option<Choice> = None;
    for (node, offer) in offers {
        match fit(demand, offer) {
            Ok(fit) if best.as_ref().is_none_or(|best| (fit.rank, node) < (best.fit.rank, &best.node)) => {
                best = Some(Choice { node: node.clone(), fit });
            }
            Ok(_) => {}
            Err(lack) => *why.0.entry(lack).or_default() += 1,
        }
    }
    best.ok_or(why)
}

fn levels() -> impl Strategy<Value = Levels> {
    proptest::collection::vec(proptest::sample::select(Level::ALL.to_vec()), 0..4).prop_map(|levels| levels.into_iter().collect())
}

fn place() -> impl Strategy<Value = Place> {
    proptest::sample::select(vec!["", "eu", "eu/de", "eu/fr/par", "us"]).prop_map(|text| text.parse().unwrap())
}

fn labels() -> impl Strategy<Value = BTreeMap<String, String>> {
    proptest::collection::btree_map("[ab]", "[xyz]", 0..3)
}

fn standing() -> impl Strategy<Value = Standing> {
    prop_oneof![
        6 => Just(Standing::Ready),
        1 => proptest::sample::select(vec![Standing::Suspended, Standing::Untrusted, Standing::Drains, Standing::Disconnected,
            Standing::Held, Standing::Withdrawn]),
    ]
}

fn gpus() -> impl Strategy<Value = Vec<GpuGroup>> {
    let group = (proptest::sample::select(vec!["A", "B"]), 1_u64..3, 0_u32..3, 0_u32..5, 0_u32..5);
    let group = group.prop_map(|(model, memory, island, total, used)| GpuGroup {
        model: model.to_owned(),
        memory_mib: memory * 40_000,
        island,
        total,
        used,
    });
    proptest::collection::vec(group, 0..4)
}

fn offer(nodes: usize) -> impl Strategy<Value = Offer> {
    let what = (levels(), levels(), gpus(), place(), labels(), standing(), any::<bool>());
    let room = (0_u64..9, 0_u64..5, 0_u64..4000, 0_u64..3000, proptest::option::of(0_u64..2000));
    (0..nodes, what, room, (0_u64..40, 0_u64..40, 0_u64..40, 0_u64..40), proptest::option::of("[hk]")).prop_map(
        |(node, (levels, networked, gpus, place, labels, standing, attested), room, prices, hoster)| Offer {
            node: id(node),
            hoster,
            standing,
            tier: if attested { Tier::Attested } else { Tier::Simulated },
            levels,
            networked,
            total: Room { cpus: room.0, memory_mib: room.2, disk_mib: room.4 },
            used: Room { cpus: room.1, memory_mib: room.3, disk_mib: Some(100) },
            gpus,
            place,
            prices: Prices { cpu: prices.0, memory_gib: prices.1, disk_gib: prices.2, gpu: prices.3 },
            labels,
        },
    )
}

fn demand(nodes: usize) -> impl Strategy<Value = Demand> {
    let gpu = (proptest::option::of("[AB]"), 1_u32..5, 0_u64..3, any::<bool>());
    let gpu = gpu.prop_map(|(model, count, memory, linked)| GpuDemand { model, count, memory_mib: memory * 40_000, linked });
    let size = (0_u64..6, 0_u64..1500, 0_u64..1500);
    let rules = (
        proptest::sample::select(Level::ALL.to_vec()),
        any::<bool>(),
        any::<bool>(),
        prop_oneof![3 => Just(None), 1 => gpu.prop_map(Some)],
    );
    let wishes = (place(), prop_oneof![2 => Just(None), 1 => (0_u64..300).prop_map(Some)], labels(), place(), any::<bool>());
    let company =
        (proptest::collection::btree_map(0..nodes, 0_u32..20, 0..3), proptest::collection::btree_map("[hk]", 0_u32..20, 0..2));
    let node = prop_oneof![9 => Just(None), 1 => (0..nodes + 3).prop_map(Some)];
    (size, rules, wishes, company, node).prop_map(|(size, rules, wishes, company, node)| Demand {
        level: rules.0,
        tier: if rules.1 { Tier::Attested } else { Tier::Simulated },
        cpus: size.0,
        memory_mib: size.1,
        scratch_mib: size.2,
        network: rules.2,
        gpus: rules.3,
        node: node.map(id),
        within: wishes.0,
        most_per_hour: wishes.1,
        labels: wishes.2,
        near: wishes.3,
        prefer: if wishes.4 { Prefer::Price } else { Prefer::Spread },
        beside: Beside { nodes: company.0.into_iter().map(|(node, count)| (id(node), count)).collect(), hosters: company.1 },
    })
}

/// Undemanding ones find something, so that the choice among many is looked at, too.
fn easy(nodes: usize) -> impl Strategy<Value = Demand> {
    demand(nodes).prop_map(|demand| Demand {
        level: Level::Container,
        tier: Tier::Simulated,
        cpus: 1,
        memory_mib: demand.memory_mib / 8,
        scratch_mib: 0,
        network: false,
        gpus: None,
        node: None,
        within: Place::default(),
        most_per_hour: None,
        labels: BTreeMap::new(),
        ..demand
    })
}

const NODES: usize = 60;

#[derive(Debug, Clone)]
enum Step {
    Put(Offer),
    Remove(usize),
    Become(Vec<Offer>),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => offer(NODES).prop_map(Step::Put),
        3 => (0..NODES).prop_map(Step::Remove),
        1 => proptest::collection::vec(offer(NODES), 0..NODES).prop_map(Step::Become),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_happened_the_answer_is_that_of_a_scan_and_explains_every_node_once(
        first in proptest::collection::vec(offer(NODES), 0..NODES * 2),
        steps in proptest::collection::vec(step(), 0..40),
        demands in proptest::collection::vec(prop_oneof![demand(NODES), easy(NODES)], 1..6),
    ) {
        let mut known: BTreeMap<NodeId, Offer> = first.iter().map(|offer| (offer.node.clone(), offer.clone())).collect();
        let mut market = Market::new(first);
        for step in steps {
            match step {
                Step::Put(offer) => {
                    known.insert(offer.node.clone(), offer.clone());
                    market.put(offer);
                }
                Step::Remove(number) => {
                    known.remove(&id(number));
                    market.remove(&id(number));
                }
                Step::Become(offers) => {
                    known = offers.into_iter().map(|offer| (offer.node.clone(), offer)).collect();
                    market.become_these(known.values().cloned().collect());
                }
            }
        }
        prop_assert_eq!(market.len(), known.len());
        // Built in one go from the end, or the other way around: nothing of the past is in the answer.
        let (again, reversed) = (Market::new(known.values().cloned()), Market::new(known.values().rev().cloned()));
        for demand in demands {
            let expected = scan(&known, &demand);
            if let Err(why) = &expected {
                prop_assert_eq!(why.nodes(), known.len());
            }
            prop_assert_eq!(&market.select(&demand), &expected);
            prop_assert_eq!(&again.select(&demand), &expected);
            prop_assert_eq!(&reversed.select(&demand), &expected);
        }
    }

    #[test]
    fn nobody_is_given_less_than_he_asked_for(
        offers in proptest::collection::vec(offer(NODES), 1..NODES * 2),
        demand in prop_oneof![demand(NODES), easy(NODES)],
    ) {
        let market = Market::new(offers);
        if let Ok(Choice { node, fit }) = market.select(&demand) {
            let offer = market.get(&node).unwrap();
            prop_assert_eq!(offer.standing, Standing::Ready);
            prop_assert!(offer.tier >= demand.tier && fit.level >= demand.level && offer.levels.has(fit.level) | demand.network);
            prop_assert!(!demand.network || offer.networked.has(fit.level));
            prop_assert!(offer.used.memory_mib + fit.memory_mib <= offer.total.memory_mib);
            prop_assert!(fit.memory_mib >= demand.memory_mib + 64);
            // Whoever asks for nothing gets it from a node that has given away too much, as well.
            prop_assert!(demand.cpus <= (offer.total.cpus * 4).saturating_sub(offer.used.cpus));
            prop_assert!(offer.total.disk_mib.is_none_or(|disk| fit.disk_mib <= disk.saturating_sub(offer.used.disk_mib.unwrap())));
            prop_assert_eq!(fit.memory_mib - 64 - demand.memory_mib + fit.disk_mib, demand.scratch_mib, "scratch is somewhere");
            prop_assert!(demand.most_per_hour.is_none_or(|most| fit.price_per_hour <= most));
            prop_assert!(demand.within.contains(&offer.place));
            prop_assert!(demand.labels.iter().all(|(name, value)| offer.labels.get(name) == Some(value)));
            if let Some(wanted) = &demand.gpus {
                let is_kind = |group: &&GpuGroup| group.memory_mib >= wanted.memory_mib && wanted.model.as_ref().is_none_or(|m| *m == group.model);
                let free: u32 = offer.gpus.iter().filter(is_kind).map(|group| group.total.saturating_sub(group.used)).sum();
                prop_assert!(free >= wanted.count);
            }
        }
    }
}

fn plain(node: usize) -> Offer {
    Offer {
        node: id(node),
        hoster: None,
        standing: Standing::Ready,
        tier: Tier::Attested,
        levels: [Level::Microvm].into_iter().collect(),
        networked: Levels::default(),
        total: Room { cpus: 8, memory_mib: 16_384, disk_mib: Some(100_000) },
        used: Room::default(),
        gpus: Vec::new(),
        place: Place::default(),
        prices: Prices::default(),
        labels: BTreeMap::new(),
    }
}

fn small() -> Demand {
    Demand {
        level: Level::Container,
        tier: Tier::Simulated,
        cpus: 1,
        memory_mib: 1024,
        scratch_mib: 64,
        network: false,
        gpus: None,
        node: None,
        within: Place::default(),
        most_per_hour: None,
        labels: BTreeMap::new(),
        near: Place::default(),
        prefer: Prefer::Price,
        beside: Beside::default(),
    }
}

fn chosen(offers: Vec<Offer>, demand: &Demand) -> NodeId {
    Market::new(offers).select(demand).unwrap().node
}

fn island(number: u32, total: u32, used: u32) -> GpuGroup {
    GpuGroup { model: "H200".into(), memory_mib: 141_000, island: number, total, used }
}

#[test]
fn a_refusal_says_what_most_nodes_lack_first() {
    let gpu = |node| Offer { gpus: vec![GpuGroup { memory_mib: 40_000, ..island(0, 8, 0) }], ..plain(node) };
    let suspended = |node| Offer { standing: Standing::Suspended, ..gpu(node) };
    let market =
        Market::new((0..37).map(gpu).chain((40..42).map(suspended)).chain([Offer { gpus: vec![island(0, 8, 7)], ..plain(50) }]));
    let wanted = GpuDemand { model: Some("H200".into()), count: 2, memory_mib: 141_000, linked: false };
    let refused = market.select(&Demand { gpus: Some(wanted), ..small() }).unwrap_err();
    assert_eq!(refused.to_string(), "no node will do: 37 without such GPUs, 2 suspended, 1 without enough free GPUs");
    assert_eq!(Market::default().select(&small()).unwrap_err().to_string(), "no node is enrolled");
    let refused = market.select(&Demand { node: Some(id(40)), ..small() }).unwrap_err();
    assert_eq!(refused.0, BTreeMap::from([(Lack::Other, 39), (Lack::Standing(Standing::Suspended), 1)]));
}

#[test]
fn the_cheaper_node_is_chosen_and_among_much_alike_prices_the_emptier() {
    let priced = |node, cpu, used| Offer {
        prices: Prices { cpu, ..Prices::default() },
        used: Room { memory_mib: used, ..Room::default() },
        ..plain(node)
    };
    assert_eq!(chosen(vec![priced(1, 1000, 0), priced(2, 500, 9000)], &small()), id(2));
    assert_eq!(chosen(vec![priced(1, 1001, 0), priced(2, 1000, 9000)], &small()), id(1));
    assert_eq!(chosen(vec![priced(1, 1000, 0), priced(2, 500, 9000)], &Demand { prefer: Prefer::Spread, ..small() }), id(1));
    let most = Demand { most_per_hour: Some(700), ..small() };
    assert_eq!(chosen(vec![priced(1, 1000, 0), priced(2, 700, 9000)], &most), id(2));
    assert_eq!(chosen(vec![plain(3), plain(1), plain(2)], &small()), id(1), "equal ones by their id");
}

#[test]
fn linked_gpus_come_first_small_islands_are_not_broken_up_and_others_stay_away() {
    let with = |node, gpus| Offer { gpus, ..plain(node) };
    let wanted = |count, linked| Demand { gpus: Some(GpuDemand { model: None, count, memory_mib: 0, linked }), ..small() };
    let split = with(1, vec![island(0, 4, 2), island(1, 4, 2)]);
    let whole = with(2, vec![island(0, 8, 0)]);
    let exact = with(3, vec![island(0, 8, 4)]);
    assert_eq!(chosen(vec![split.clone(), whole.clone(), exact.clone()], &wanted(4, false)), id(3));
    assert_eq!(chosen(vec![split.clone(), whole.clone()], &wanted(4, false)), id(2));
    assert_eq!(chosen(vec![split.clone()], &wanted(4, false)), id(1));
    let refused = Market::new([split]).select(&wanted(4, true)).unwrap_err();
    assert_eq!(refused.to_string(), "no node will do: 1 without enough free GPUs that are linked");
    assert_eq!(chosen(vec![whole, plain(9)], &small()), id(9), "work without GPUs leaves them free");
}

#[test]
fn near_is_better_and_company_is_avoided() {
    let at =
        |node, place: &str, hoster: &str| Offer { place: place.parse().unwrap(), hoster: Some(hoster.into()), ..plain(node) };
    let offers = || vec![at(1, "us", "h"), at(2, "eu/fr", "h"), at(3, "eu/de", "h"), at(4, "eu/de", "k")];
    let near = Demand { near: "eu/de/fra".parse().unwrap(), ..small() };
    assert_eq!(chosen(offers(), &near), id(3));
    let beside = Beside { nodes: BTreeMap::from([(id(3), 1)]), hosters: BTreeMap::from([("h".into(), 1)]) };
    assert_eq!(chosen(offers(), &Demand { beside, ..near }), id(4));
    let within = Demand { within: "eu/fr".parse().unwrap(), ..small() };
    assert_eq!(chosen(offers(), &within), id(2));
}
