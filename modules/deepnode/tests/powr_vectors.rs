//! The mathematics of PoWR against `vectors/powr.py`, a second statement of its formulas.

use deepnode_core::num::decay::{decay, ema, half_life_factor};
use deepnode_core::num::Dec;
use deepnode_modules::params::PowerParams;
use deepnode_modules::powr::math::powers::{cap, powers, rescale, shares, Seat};
use deepnode_modules::reputation::math::reputation;
use std::collections::BTreeMap;
use std::io::Read;
use std::str::FromStr;

/// A case's result for its arguments, printed as the vectors print it.
fn result(word: &str, args: &[&str]) -> String {
    match (word, args) {
        ("pow", [f, n]) => dec(f).checked_pow(num(n)).unwrap().to_wire(),
        ("halflife", [h]) => half_life_factor(num(h)).unwrap().to_wire(),
        ("decay", [v, f, n]) => decay(num(v), dec(f), num(n)).unwrap().to_string(),
        ("rep", [passes, failures, kappa]) => {
            reputation(num(passes), num(failures), num(kappa)).unwrap().to_wire()
        }
        ("cap", [n]) => cap(num(n)).to_string(),
        ("ema", [average, sample, tau]) => ema(dec(average), dec(sample), num(tau)).unwrap().to_wire(),
        ("rescale", [old]) => show(&rescale(&list(old)).unwrap()),
        ("shares", [rho, scores, stakes]) => show(&shares(&list(scores), &list(stakes), dec(rho)).unwrap()),
        ("powers", [leverage, drift, base, q, stakes, old, signed]) => {
            let params = PowerParams { leverage: num(leverage), drift: dec(drift), ..PowerParams::default() };
            let (q, stakes): (Vec<u128>, Vec<u128>) = (list(q), list(stakes));
            let (old, signed): (Vec<u64>, Vec<u8>) = (list(old), list(signed));
            let seats: Vec<Seat> = (0..q.len())
                .map(|at| Seat { share: q[at], old: old[at], stake: stakes[at], signed: signed[at] == 1 })
                .collect();
            show(&powers(&seats, num(base), &params).unwrap())
        }
        _ => panic!("unknown case {word} with {} arguments", args.len()),
    }
}

fn num<T: FromStr>(text: &str) -> T {
    text.parse().unwrap_or_else(|_| panic!("not a number: {text}"))
}

fn dec(text: &str) -> Dec {
    Dec::from_wire(text).unwrap()
}

fn list<T: FromStr>(text: &str) -> Vec<T> {
    text.split(',').map(num).collect()
}

fn show<T: ToString>(values: &[T]) -> String {
    values.iter().map(T::to_string).collect::<Vec<_>>().join(",")
}

#[test]
fn both_statements_agree() {
    let mut text = String::new();
    let packed = include_bytes!("vectors/powr.txt.gz");
    flate2::read::GzDecoder::new(packed.as_slice()).read_to_string(&mut text).unwrap();
    let mut seen = BTreeMap::new();
    for line in text.lines() {
        let (case, expected) = line.split_once(" = ").unwrap();
        let (word, args) = case.split_once(' ').unwrap();
        assert_eq!(result(word, &args.split(' ').collect::<Vec<_>>()), expected, "{case}");
        *seen.entry(word).or_insert(0) += 1;
    }
    let many = ["cap", "decay", "pow", "powers", "rep", "shares"].map(|word| (word, 10_000));
    let few = ["ema", "halflife", "rescale"].map(|word| (word, 2_000));
    assert_eq!(seen, BTreeMap::from_iter(many.into_iter().chain(few)));
}
