//! The course of an audit: draws, phases, and who decides next.

use deepnode_core::draw::Stream;
use deepnode_core::{Address, Ctx, Dec, Error, Result};

use super::auditors::{Panel, Seat};
use super::math::{self, Decision, FirstRound};
use super::outcome;
use super::state::{self, Audit, Draw, Member, Outcome, Phase, Round, Subject};
use super::state::{BY_MODEL, BY_TASK, FROZEN, LAST_ID, SEATS};
use super::tally::{reveals, tally};
use super::{auditors, events, params, vectors};
use crate::{beacon, reputation, tasks, workers};

/// What an audit is about, as it is opened.
pub(super) struct Case {
    pub subject: Subject,
    pub model: [u8; 32],
    pub digest: [u8; 32],
    pub worker: Option<Address>,
    pub class: String,
    pub cu: u64,
    pub chance: Dec,
    pub fee: u128,
}

/// Opens an audit; it waits for a draw.
pub(super) fn open(cx: &mut Ctx<'_>, case: Case) -> Result<Audit> {
    let id = LAST_ID.next(cx)?;
    let Case { subject, model, digest, worker, class, cu, chance, fee } = case;
    match subject {
        Subject::Receipt(task) => BY_TASK.set(cx, &task, &id)?,
        Subject::Vector => BY_MODEL.set(cx, &model, &id)?,
    }
    Ok(Audit {
        id,
        subject,
        model,
        digest,
        worker,
        class,
        cu,
        chance,
        phase: Phase::Draw,
        phase_end: cx.height(),
        round: Round::First { eligible: 0 },
        unanswered: 0,
        draws: Vec::new(),
        members: Vec::new(),
        frozen: false,
        reporter: None,
        outcome: None,
        opened_height: cx.height(),
        closed_height: 0,
        fee,
    })
}

/// Takes the step of an audit whose phase is over. `now` is this block's beacon.
pub(super) fn step(cx: &mut Ctx<'_>, panel: &Panel, id: u64, now: &[u8; 32]) -> Result<()> {
    let mut audit = state::known(cx, id)?;
    match audit.phase {
        Phase::Draw => {
            let height = audit.phase_end;
            match beacon::value(cx, height)? {
                Some(value) => draw(cx, panel, audit, height, value),
                // So late that the value is forgotten: this block's is as unforeseen.
                None => {
                    let height = cx.height();
                    draw(cx, panel, audit, height, *now)
                }
            }
        }
        Phase::Commit if audit.current().any(|m| m.commitment.is_some()) => {
            reveal_phase(cx, &mut audit)?;
            audit.save(cx)
        }
        Phase::Commit | Phase::Reveal => conclude(cx, audit),
        Phase::Missing => outcome::close(cx, audit, Outcome::Withheld),
        Phase::Closed => Err(Error::fault(format!("audit {id} is closed and has a next step"))),
    }
}

/// Whoever committed reveals.
pub(super) fn reveal_phase(cx: &mut Ctx<'_>, audit: &mut Audit) -> Result<()> {
    let end = cx.height().saturating_add(params::params(cx)?.phase_blocks);
    audit.enter(cx, Phase::Reveal, end)?;
    cx.emit(events::revealing(audit));
    Ok(())
}

/// A further draw, by the beacon of two blocks after this one.
fn draw_later(cx: &mut Ctx<'_>, mut audit: Audit, round: Round) -> Result<()> {
    if round != audit.round {
        audit.round = round;
        audit.unanswered = 0;
    }
    let end = cx.height().saturating_add(tasks::BEACON_DELAY);
    audit.enter(cx, Phase::Draw, end)?;
    audit.save(cx)
}

/// Draws the members of the round in force by the beacon `value` of `height`; they commit from now on.
pub(super) fn draw(
    cx: &mut Ctx<'_>,
    panel: &Panel,
    mut audit: Audit,
    height: u64,
    value: [u8; 32],
) -> Result<()> {
    let seats = match audit.round {
        _ if audit.subject == Subject::Vector => vectors::seats(cx, panel, &audit, &value)?,
        Round::First { .. } => first_seats(cx, panel, &mut audit, &value)?,
        Round::Committee { first, .. } => committee_seats(cx, panel, &mut audit, first, &value)?,
        Round::Court => panel.of_class(&audit.class).map(|seat| (seat.clone(), seat.stake)).collect(),
    };
    let phase_blocks = params::params(cx)?.phase_blocks;
    let end = cx.height().saturating_add(phase_blocks);
    if seats.is_empty() {
        return match audit.round {
            // Those of the first draw are all there are: their verdicts decide, or the court does.
            Round::Committee { .. } => decide(cx, audit),
            Round::First { .. } | Round::Court => nobody(cx, audit, end),
        };
    }
    audit.draws.push(Draw { height, beacon: value });
    let draw = audit.draw();
    for (seat, weight) in seats {
        SEATS.set(cx, &(seat.operator, audit.id), &draw)?;
        audit.members.push(Member {
            operator: seat.operator,
            key: seat.key,
            draw,
            weight,
            commitment: None,
            verdict: None,
            digest: [0; 32],
        });
    }
    audit.enter(cx, Phase::Commit, end)?;
    cx.emit(events::drawn(&audit));
    audit.save(cx)
}

/// One or two by power, without the worker's own validator unless it is the only one. Whoever did not answer an
/// earlier draw is not asked again while there are others.
fn first_seats(
    cx: &mut Ctx<'_>,
    panel: &Panel,
    audit: &mut Audit,
    value: &[u8; 32],
) -> Result<Vec<(Seat, u128)>> {
    let backed = backed(cx, audit)?;
    let mut eligible = panel.eligible(audit, backed);
    audit.round = Round::First { eligible: u32::try_from(eligible.len()).unwrap_or(u32::MAX) };
    if eligible.is_empty() {
        eligible = panel.of_class(&audit.class).collect();
    }
    let silent = |seat: &&&Seat| audit.members.iter().any(|m| m.operator == seat.operator);
    if eligible.iter().any(|seat| !silent(&seat)) {
        eligible.retain(|seat| !silent(&seat));
    }
    let mut stream = Stream::new(value, "audit.first", &audit.digest);
    let seats = math::first_seats(audit.chance, eligible.len(), &mut stream, &params::rules(cx)?);
    by_power(&mut stream, &eligible, seats)
}

/// The committee after the dissent of draw `first`: by power, without those who dissented.
fn committee_seats(
    cx: &mut Ctx<'_>,
    panel: &Panel,
    audit: &mut Audit,
    first: u32,
    value: &[u8; 32],
) -> Result<Vec<(Seat, u128)>> {
    let backed = backed(cx, audit)?;
    let mut others = panel.eligible(audit, backed);
    others.retain(|seat| !audit.members_of(first).any(|m| m.operator == seat.operator));
    let committee = math::committee(audit.members_of(first).count(), others.len(), &params::rules(cx)?);
    audit.round = Round::Committee {
        first,
        first_count: committee.first_count,
        needed: u32::try_from(committee.needed).unwrap_or(u32::MAX),
    };
    by_power(&mut Stream::new(value, "audit.committee", &audit.digest), &others, committee.drawn)
}

/// Draws `k` of `seats` by voting power; each weighs 1.
pub(super) fn by_power(stream: &mut Stream, seats: &[&Seat], k: usize) -> Result<Vec<(Seat, u128)>> {
    let weights: Vec<(Address, u128)> = seats.iter().map(|s| (s.operator, u128::from(s.power))).collect();
    let drawn = stream.draw(&weights, k).map_err(Error::fault)?;
    let seat = |operator: &Address| seats.iter().find(|s| s.operator == *operator);
    Ok(drawn.iter().filter_map(seat).map(|s| ((*s).clone(), 1)).collect())
}

fn backed(cx: &Ctx<'_>, audit: &Audit) -> Result<Option<Address>> {
    match &audit.worker {
        Some(worker) => workers::backed(cx, worker),
        None => Ok(None),
    }
}

/// No auditor of the class is there at all: asked again at block `end`. That is never a pass: a receipt becomes void
/// in the end, a model stays pending.
fn nobody(cx: &mut Ctx<'_>, mut audit: Audit, end: u64) -> Result<()> {
    if audit.subject != Subject::Vector {
        audit.unanswered = audit.unanswered.saturating_add(1);
        if audit.unanswered >= params::params(cx)?.max_draws {
            return outcome::close(cx, audit, Outcome::Void);
        }
    }
    audit.enter(cx, Phase::Draw, end)?;
    audit.save(cx)
}

/// All have spoken, or their time is over.
fn conclude(cx: &mut Ctx<'_>, audit: Audit) -> Result<()> {
    for member in audit.current().filter(|m| m.verdict.is_none()) {
        reputation::duty_missed(cx, &member.operator)?;
        auditors::change(cx, &member.operator, |a| a.missed = a.missed.saturating_add(1))?;
        cx.emit(events::missed(&audit, &member.operator));
    }
    if audit.subject == Subject::Vector {
        return vectors::conclude(cx, audit);
    }
    match audit.round {
        Round::First { eligible } => {
            let first = audit.draw();
            match math::first_round(&reveals(audit.current()), eligible as usize) {
                FirstRound::Right => outcome::close(cx, audit, Outcome::Right),
                FirstRound::NoReveal => unanswered(cx, audit),
                FirstRound::Dissent => {
                    dispute(cx, audit, Round::Committee { first, first_count: false, needed: 0 })
                }
                FirstRound::ToCourt => dispute(cx, audit, Round::Court),
            }
        }
        Round::Committee { .. } => decide(cx, audit),
        Round::Court => court(cx, audit),
    }
}

/// Nobody revealed: another draw, at last void.
pub(super) fn unanswered(cx: &mut Ctx<'_>, mut audit: Audit) -> Result<()> {
    audit.unanswered = audit.unanswered.saturating_add(1);
    if audit.unanswered >= params::params(cx)?.max_draws {
        return outcome::close(cx, audit, Outcome::Void);
    }
    let round = audit.round;
    draw_later(cx, audit, round)
}

/// Freezes the worker's pay and asks others.
fn dispute(cx: &mut Ctx<'_>, mut audit: Audit, round: Round) -> Result<()> {
    if let (Some(worker), false) = (audit.worker, audit.frozen) {
        let open = FROZEN.get(cx, &worker)?.unwrap_or(0).saturating_add(1);
        FROZEN.set(cx, &worker, &open)?;
        audit.frozen = true;
    }
    draw_later(cx, audit, round)
}

/// A committee decides, with the first draw if it is too small; undecided, the court is asked.
fn decide(cx: &mut Ctx<'_>, audit: Audit) -> Result<()> {
    let Round::Committee { first, first_count, needed } = audit.round else {
        return Err(Error::fault(format!("audit {} has no committee", audit.id)));
    };
    let mut votes = Default::default();
    if audit.draw() > first {
        votes = tally(audit.current());
    }
    if first_count {
        votes = votes.and(tally(audit.members_of(first)));
    }
    let committee = math::Committee { drawn: 0, first_count, needed: needed as usize };
    let count = |weight: u128| usize::try_from(weight).unwrap_or(usize::MAX);
    match committee.decide(count(votes.right), count(votes.against)) {
        Decision::Right => outcome::close(cx, audit, Outcome::Right),
        Decision::Wrong if votes.withheld() => outcome::close(cx, audit, Outcome::Withheld),
        Decision::Wrong => outcome::close(cx, audit, Outcome::Wrong),
        Decision::Undecided => draw_later(cx, audit, Round::Court),
    }
}

/// More than two thirds of the stake that audits the class decide; undecided, the audit is void.
fn court(cx: &mut Ctx<'_>, audit: Audit) -> Result<()> {
    let votes = tally(audit.current());
    let total = audit.current().fold(0u128, |sum, m| sum.saturating_add(m.weight));
    let outcome = match math::court(votes.right, votes.against, total) {
        Decision::Right => Outcome::Right,
        Decision::Wrong if votes.withheld() => Outcome::Withheld,
        Decision::Wrong => Outcome::Wrong,
        Decision::Undecided => Outcome::Void,
    };
    outcome::close(cx, audit, outcome)
}
