//! The mesh in virtual time: a thousand agents, deaths, partitions, hostile neighbours.
//!
//! Every run follows from a seed, which a failure prints. `NETBUILD_SIM_SEED` sets another one.

#![expect(
    clippy::print_stdout,
    reason = "figures and seeds, shown when a test fails or when asked for"
)]

use netbuild_core::{
    gossip::Counters,
    sim::{AgentNo, Conduct, Fetch, Setup, Sim},
};
use std::time::{Duration, Instant};

/// New records per second over the whole mesh for which the mesh is made.
const RECORDS_PER_SECOND: f64 = 50.0;
/// Bytes per second that gossip may cost an agent, in each direction.
const BUDGET: f64 = 20_000.0;

/// The seed of this run; printed, and so shown when the test fails.
fn seed() -> u64 {
    let seed = std::env::var("NETBUILD_SIM_SEED").ok().and_then(|seed| seed.parse().ok());
    let seed = seed.unwrap_or(20_261_124);
    println!("NETBUILD_SIM_SEED={seed}");
    seed
}

fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// A mesh under the load that it is made for.
fn busy(regions: usize, agents: usize) -> Setup {
    let mut setup = Setup::new(seed(), Instant::now(), regions, agents);
    setup.records_per_second = RECORDS_PER_SECOND;
    setup.presence = true;
    setup
}

/// The longest time until 99 % knew a rumour, among those said from `from` to `to` by agents that
/// still live. Fails when there is one that 99 % do not know.
fn slowest(sim: &Sim, from: Duration, to: Duration) -> Duration {
    let told = (0..sim.rumours())
        .filter(|rumour| (from..to).contains(&sim.said_at(*rumour)) && sim.origin_lives(*rumour));
    let times = told.map(|rumour| {
        let spread = sim.spread(rumour);
        spread.most.unwrap_or_else(|| panic!("rumour {rumour} is known to {:.3}", spread.known))
    });
    times.max().expect("there are rumours")
}

fn total(sim: &Sim, of: fn(&Counters) -> u64) -> u64 {
    sim.living().iter().map(|agent| of(&sim.gossip(*agent).counters())).sum()
}

#[test]
fn a_thousand_agents_learn_a_record_within_three_seconds_for_twenty_kilobytes_per_second() {
    let mut sim = Sim::new(busy(10, 100));
    sim.run(seconds(5));
    sim.count_from_now();
    sim.run(seconds(10));
    let slowest = slowest(&sim, seconds(0), seconds(12));
    let [(sent, most_sent), (received, most_received)] = sim.rates();
    println!("99 % know each record within {slowest:?}");
    println!("sent {sent:.0} B/s, at most {most_sent:.0}");
    println!("received {received:.0} B/s, at most {most_received:.0}");
    assert!(slowest <= seconds(3), "{slowest:?}");
    assert!(sent <= BUDGET && received <= BUDGET, "sent {sent:.0}, received {received:.0}");
    // Somebody in the tree has to pass on to two or three. It is bounded by the degree.
    assert!(most_sent <= 4.0 * BUDGET, "one agent sent {most_sent:.0}");
    assert!(most_received <= 2.0 * BUDGET, "one agent received {most_received:.0}");
    assert_eq!(total(&sim, |counters| counters.rejected + counters.flooded), 0);
}

#[test]
fn the_living_learn_everything_while_a_tenth_of_the_mesh_is_replaced_every_half_minute() {
    let mut setup = busy(5, 40);
    setup.records_per_second = 10.0;
    let mut sim = Sim::new(setup);
    for _ in 0..3 {
        for _ in 0..10 {
            sim.run(Duration::from_millis(1_500));
            for _ in 0..2 {
                let victim = sim.any().expect("somebody lives");
                let region = sim.region(victim);
                sim.kill(victim);
                sim.join(region);
            }
        }
        sim.run(seconds(15));
    }
    let slowest = slowest(&sim, seconds(0), sim.elapsed() - seconds(15));
    println!("99 % of the living know each record within {slowest:?}");
    assert!(slowest <= seconds(15), "{slowest:?}");
    assert_eq!(sim.living().len(), 200);
}

#[test]
fn hostile_neighbours_are_noticed_and_keep_nothing_from_the_others() {
    let mut setup = busy(3, 14);
    setup.records_per_second = 5.0;
    let mut sim = Sim::new(setup);
    let (withholding, flooding): (Vec<AgentNo>, Vec<AgentNo>) =
        ((0..42).step_by(10).collect(), vec![5, 25]);
    for agent in &withholding {
        sim.set_conduct(*agent, Conduct::Withholding);
    }
    for agent in &flooding {
        sim.set_conduct(*agent, Conduct::Flooding);
    }
    sim.run(seconds(20));
    let honest: Vec<AgentNo> = sim
        .living()
        .into_iter()
        .filter(|agent| !withholding.contains(agent) && !flooding.contains(agent))
        .collect();
    for rumour in 0..sim.rumours() {
        let late = sim.said_at(rumour) + seconds(10) > sim.elapsed();
        let origin = sim.origin(rumour);
        if !late && !withholding.contains(&origin) && !flooding.contains(&origin) {
            let spread = sim.spread(rumour);
            assert!(spread.most.is_some_and(|most| most <= seconds(6)), "{rumour}: {spread:?}");
        }
    }
    for victim in honest {
        let neighbours = sim.neighbours(victim);
        for neighbour in neighbours {
            let offences = sim.gossip(victim).offences(&sim.peer(neighbour));
            assert_eq!(offences > 0, flooding.contains(&neighbour), "{neighbour}: {offences}");
        }
        let (ids, bytes) = sim.gossip(victim).remembered();
        assert!(ids <= netbuild_core::gossip::MAX_KEPT_IDS, "{ids}");
        assert!(bytes <= netbuild_core::gossip::MAX_KEPT_BYTES, "{bytes}");
    }
}

#[test]
fn both_sides_of_a_healed_partition_are_equal_within_ten_seconds() {
    let mut setup = Setup::new(seed(), Instant::now(), 4, 5);
    setup.records_per_second = 0.5;
    setup.records = true;
    let mut sim = Sim::new(setup);
    sim.run(seconds(30));
    let shared = sim.kept(0).len();
    sim.cut(&[0, 1]);
    sim.run(seconds(60));
    // The same actions run on both sides; every second one gives another result there.
    for action in 0..20 {
        sim.write(3, action, 0);
        sim.write(17, action, action % 2);
        sim.run(seconds(27));
    }
    assert_ne!(sim.kept(0), sim.kept(19));
    sim.stop_writing();
    let written = sim.rumours();
    sim.heal();
    sim.run(seconds(10));
    let (kept, conflicts) = (sim.kept(0), sim.conflicts(0));
    println!("{shared} records before, {} after, {} conflicts", kept.len(), conflicts.len());
    let reconciled: u64 = sim.living().iter().map(|agent| sim.load(*agent).reconciled).sum();
    println!("{reconciled} bytes of reconciliation and records");
    for agent in sim.living() {
        assert!(sim.kept(agent) == kept, "agent {agent} has other records");
        assert_eq!(sim.conflicts(agent), conflicts, "agent {agent}");
    }
    assert_eq!(conflicts.len(), 10);
    // Twenty actions were written twice; what was said while agents became equal comes after.
    assert!(kept.len() >= written - 20 && kept.len() > shared, "{written}: {}", kept.len());
}

#[test]
fn a_far_group_is_served_by_few_holders_over_one_crossing_per_region() {
    let shapes = Setup::new(seed(), Instant::now(), 0, 0);
    let fetch = Fetch {
        seed: shapes.seed,
        regions: vec![12, 20, 20, 20],
        holders: 2,
        size: 100_000_000,
        local: shapes.local,
        remote: shapes.remote,
        uplink_bits: shapes.uplink_bits,
    };
    let fetched = fetch.run();
    println!("{fetched:?}");
    assert_eq!(fetched.finished, 70);
    assert_eq!(fetched.crossings, [0, 1, 1, 1]);
    // A quarter of the uplink, or of the link, of whoever serves: nobody starves.
    assert!(fetched.least_rate >= shapes.uplink_bits as f64 / 8.0 / 4.0, "{fetched:?}");
    // One crossing takes 16 s alone; the copies in a region then double and redouble.
    assert!(fetched.slowest <= seconds(300), "{fetched:?}");
}

#[test]
fn a_seed_gives_the_same_run_to_the_last_byte() {
    let start = Instant::now();
    let run = |seed| {
        let mut setup = busy(3, 10);
        (setup.seed, setup.start) = (seed, start);
        setup.remote.loss_ppm = 10_000;
        let mut sim = Sim::new(setup);
        sim.run(seconds(5));
        let victim = sim.any().expect("somebody lives");
        sim.kill(victim);
        sim.run(seconds(15));
        (sim.trace(), sim.rumours())
    };
    assert_eq!(run(1), run(1));
    assert_ne!(run(1), run(2));
}
