//! One generation's race: every challenger on one seed, the promising ones
//! on more, until the gate has decided about each.

use super::strategy::{Shift, View};
use super::wave::Job;
use super::{Halt, Loop, Reign};
use crate::evaluate::{Evaluate, Split};
use crate::gate::{Gain, MIN_PAIRS, Verdict};
use crate::ledger::{Decision, Event, Ruling};
use crate::observer::RunEvent;

/// An incumbent that fails on this many seeds of its reign gives way.
const MOST_FAILURES: usize = 2;

/// A challenger in its race.
struct Challenger {
    member: usize,
    ruling: Option<(Ruling, String)>,
}

impl Challenger {
    fn rule(&mut self, ruling: Ruling, reason: impl Into<String>) {
        self.ruling.get_or_insert((ruling, reason.into()));
    }
}

impl<E: Evaluate> Loop<'_, '_, E> {
    /// Races the candidates with these numbers, decides about each, and
    /// crowns the best that passed.
    pub(super) fn race(&mut self, generation: u32, members: &[usize]) -> Result<(), Halt> {
        let reign = self.incumbent();
        let mut field: Vec<Challenger> =
            members.iter().map(|member| Challenger { member: *member, ruling: None }).collect();
        for rung in 0..self.config.rungs.len() {
            self.rung(reign, &mut field, rung as u8)?;
        }
        self.first_seed(reign, &mut field)?;
        self.keep_most_promising(reign, &mut field);
        for look in self.gate.looks().to_vec() {
            self.further_seeds(reign, &mut field, look)?;
        }
        self.decide(generation, reign, field)
    }

    /// One paired evaluation each, together with the first evaluations of a
    /// new incumbent on its own seeds.
    fn first_seed(&mut self, reign: Reign, field: &mut [Challenger]) -> Result<(), Halt> {
        let seeds = self.race_seeds(reign, MIN_PAIRS);
        let mut jobs: Vec<Job> = seeds.iter().map(|seed| Job::selection(reign.member, *seed)).collect();
        let racing = field.iter().filter(|challenger| challenger.ruling.is_none());
        jobs.extend(racing.map(|challenger| Job::selection(challenger.member, seeds[0])));
        jobs.extend(self.second_looks(reign, &seeds));
        self.affordable_wave(&jobs)?;
        let stable = seeds.iter().all(|seed| self.population.failure_on(reign.member, *seed).is_none());
        for challenger in field.iter_mut().filter(|challenger| challenger.ruling.is_none()) {
            match self.population.result(challenger.member, seeds[0]) {
                None => challenger.rule(Ruling::OutOfBudget, "the evaluation budget is used up"),
                Some(record) if !record.result.outcome.is_finished() => {
                    challenger.rule(Ruling::Failed, one_line(&record.result.outcome.to_string()));
                }
                Some(_) if !stable => challenger.rule(Ruling::NoRival, "the incumbent failed on fresh seeds"),
                Some(_) => match self.gains(reign, challenger.member, 1).first() {
                    None => challenger.rule(Ruling::NoRival, "the incumbent has no score on this seed"),
                    Some(gain) if self.gate.is_clear_loser(*gain) => {
                        challenger.rule(Ruling::Dropped, "clearly worse on the first seed");
                    }
                    Some(_) => {}
                },
            }
        }
        Ok(())
    }

    /// Elites whose scores rest on few seeds, once more: on those of the
    /// reign that they have not seen.
    fn second_looks(&self, reign: Reign, seeds: &[u64]) -> Vec<Job> {
        let view = self.view();
        let fresh = |member: usize| {
            let seed = seeds.iter().find(|seed| self.population.result(member, **seed).is_none())?;
            Some(Job::selection(member, *seed))
        };
        let doubtful = self.strategy.doubtful(&view).into_iter().filter(|m| *m != reign.member);
        doubtful.filter_map(fresh).take(self.config.reevaluate as usize).collect()
    }

    /// Everyone once on a part of the budget; the best share goes on.
    fn rung(&mut self, reign: Reign, field: &mut [Challenger], rung: u8) -> Result<(), Halt> {
        let seed = reign.seed(self.run_seed, 0);
        let split = Split::Rung(rung);
        let racing = field.iter().filter(|c| c.ruling.is_none()).map(|c| c.member);
        let members: Vec<usize> = racing.collect();
        let jobs: Vec<Job> = members.iter().map(|member| Job { member: *member, split, seed }).collect();
        self.affordable_wave(&jobs)?;
        let direction = self.population.direction();
        let badness = |member: usize| {
            let result = self.population.rung_result(member, rung, seed)?;
            result.result.score.map(|score| direction.gain(0.0, score))
        };
        let mut ranked: Vec<(f64, usize)> =
            members.iter().filter_map(|member| Some((badness(*member)?, *member))).collect();
        ranked.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let share = self.config.rungs[usize::from(rung)].keep;
        ranked.truncate(((ranked.len() as f64 * share).ceil() as usize).max(1));
        for challenger in field.iter_mut().filter(|c| c.ruling.is_none()) {
            match self.population.rung_result(challenger.member, rung, seed) {
                None => challenger.rule(Ruling::OutOfBudget, "the evaluation budget is used up"),
                Some(record) if !record.result.outcome.is_finished() => {
                    challenger.rule(Ruling::Failed, one_line(&record.result.outcome.to_string()));
                }
                Some(_) if ranked.iter().any(|(_, member)| *member == challenger.member) => {}
                Some(_) => challenger.rule(Ruling::Outranked, format!("others did better on rung {rung}")),
            }
        }
        Ok(())
    }

    /// Of those still in the race, only the best `racers` go on.
    fn keep_most_promising(&self, reign: Reign, field: &mut [Challenger]) {
        let first =
            |member: usize| self.gains(reign, member, 1).first().copied().unwrap_or(f64::NEG_INFINITY);
        let mut racing: Vec<&mut Challenger> = field.iter_mut().filter(|c| c.ruling.is_none()).collect();
        racing.sort_by(|a, b| first(b.member).total_cmp(&first(a.member)).then(a.member.cmp(&b.member)));
        for challenger in racing.into_iter().skip(self.config.racers as usize) {
            challenger.rule(Ruling::Outranked, "others of its generation did better on the first seed");
        }
    }

    /// Brings everyone still in the race to `look` pairs, and judges.
    fn further_seeds(&mut self, reign: Reign, field: &mut [Challenger], look: usize) -> Result<(), Halt> {
        if field.iter().all(|challenger| challenger.ruling.is_some()) {
            return Ok(());
        }
        let seeds = self.race_seeds(reign, look);
        let mut jobs: Vec<Job> = seeds.iter().map(|seed| Job::selection(reign.member, *seed)).collect();
        for challenger in field.iter().filter(|challenger| challenger.ruling.is_none()) {
            jobs.extend(seeds.iter().map(|seed| Job::selection(challenger.member, *seed)));
        }
        self.affordable_wave(&jobs)?;
        for challenger in field.iter_mut().filter(|challenger| challenger.ruling.is_none()) {
            if let Some(outcome) = self.population.failure(challenger.member) {
                challenger.rule(Ruling::Failed, one_line(&outcome.to_string()));
                continue;
            }
            if seeds.iter().any(|seed| self.population.result(challenger.member, *seed).is_none()) {
                challenger.rule(Ruling::OutOfBudget, "the evaluation budget is used up");
                continue;
            }
            match self.gate.judge(&self.gains(reign, challenger.member, look)) {
                Verdict::Accept => challenger.rule(Ruling::Passed, "better beyond noise"),
                Verdict::Reject => {
                    challenger.rule(Ruling::NotBetter, format!("no better after {look} pairs"))
                }
                Verdict::Continue => {}
            }
        }
        Ok(())
    }

    /// Records a decision about each, in order of proposal, and the succession.
    fn decide(&mut self, generation: u32, reign: Reign, field: Vec<Challenger>) -> Result<(), Halt> {
        let most = self.config.race_seeds as usize;
        let mut decisions: Vec<(usize, Decision)> = Vec::with_capacity(field.len());
        for challenger in field {
            let gains = self.gains(reign, challenger.member, most);
            let (ruling, reason) = challenger.ruling.unwrap_or_else(|| {
                (Ruling::NotBetter, format!("not beyond noise after {} pairs", gains.len()))
            });
            let decision = Decision {
                generation,
                candidate: self.population.id(challenger.member),
                incumbent: self.population.id(reign.member),
                ruling,
                gain: Gain::of(&gains, self.noise),
                gains,
                threshold: self.gate.threshold(),
                reason,
            };
            decisions.push((challenger.member, decision));
        }
        for (member, decision) in &decisions {
            self.reward(*member, decision.ruling);
        }
        let winner = best_passed(&decisions);
        if let Some(at) = winner {
            decisions[at].1.ruling = Ruling::Kept;
        }
        for (member, decision) in &decisions {
            if matches!(decision.ruling, Ruling::Kept | Ruling::Passed) {
                self.population.accept(*member);
            }
        }
        let mut events: Vec<Event> = decisions.iter().map(|(_, d)| Event::Decided(d.clone())).collect();
        let mut told: Vec<RunEvent> =
            decisions.iter().map(|(_, d)| RunEvent::Decided { decision: d.clone() }).collect();
        if let Some(at) = winner {
            self.crowned += 1;
            self.reigns.push(Reign { member: decisions[at].0, number: self.crowned });
            let candidate = decisions[at].1.candidate.clone();
            events.push(Event::Crowned { generation, candidate: candidate.clone(), reign: self.crowned });
            told.push(RunEvent::Crowned { generation, candidate });
        } else if self.reigns.len() > 1 && self.has_failed(reign) {
            self.reigns.pop();
            let candidate = self.population.id(reign.member);
            let successor = self.population.id(self.incumbent().member);
            events.push(Event::Demoted { generation, candidate, successor: successor.clone() });
            told.push(RunEvent::Crowned { generation, candidate: successor });
        }
        events.extend(self.close_generation(generation, &decisions));
        self.archive_events(&events)?;
        told.iter().for_each(|event| self.observe(event));
        Ok(())
    }

    /// Lets the strategy file what was decided, and records what it does.
    fn close_generation(&mut self, generation: u32, decisions: &[(usize, Decision)]) -> Vec<Event> {
        let incumbent = self.incumbent().member;
        let view = View::new(&self.population, incumbent, generation, self.config);
        for (member, _) in decisions {
            let island = self.homes.remove(member).unwrap_or(0);
            self.strategy.file(&view, *member, island);
        }
        let shifts = self.strategy.close(&view);
        self.bandit.fade();
        let event = |shift: Shift| match shift {
            Shift::Migrated { from, to, member } => {
                Event::Migrated { generation, from, to, candidate: self.population.id(member) }
            }
            Shift::Reset { island, reason, founder } => {
                Event::Reset { generation, island, reason, founder: self.population.id(founder) }
            }
        };
        shifts.into_iter().map(event).collect()
    }

    fn reward(&mut self, member: usize, ruling: Ruling) {
        let origin = &self.population.candidate(member).origin;
        if let Some(arm) = self.arms.iter().position(|name| *name == origin.proposer) {
            self.bandit.learn(arm, ruling, origin);
        }
    }

    /// Whether the incumbent cannot be relied on: it failed on one of its
    /// first fresh seeds, or on several later ones.
    fn has_failed(&self, reign: Reign) -> bool {
        let failed = |seed: &u64| self.population.failure_on(reign.member, *seed).is_some();
        let seeds = self.race_seeds(reign, self.config.race_seeds as usize);
        seeds.iter().take(MIN_PAIRS).any(failed)
            || seeds.iter().filter(|s| failed(s)).count() >= MOST_FAILURES
    }

    fn race_seeds(&self, reign: Reign, count: usize) -> Vec<u64> {
        (0..count).map(|index| reign.seed(self.run_seed, index)).collect()
    }

    /// Paired differences over the first `count` seeds of the reign, where
    /// both have a score.
    fn gains(&self, reign: Reign, member: usize, count: usize) -> Vec<f64> {
        let direction = self.population.direction();
        let pair = |seed: u64| {
            let new = self.population.score(member, seed)?;
            Some(direction.gain(new, self.population.score(reign.member, seed)?))
        };
        self.race_seeds(reign, count).into_iter().filter_map(pair).collect()
    }

    fn has_done(&self, job: &Job) -> bool {
        match job.split {
            Split::Rung(rung) => self.population.rung_result(job.member, rung, job.seed).is_some(),
            _ => self.population.result(job.member, job.seed).is_some(),
        }
    }

    /// Does those of the jobs that are not known yet, as far as the
    /// evaluation budget goes, in the order given.
    fn affordable_wave(&mut self, jobs: &[Job]) -> Result<(), Halt> {
        let mut jobs: Vec<Job> = jobs.iter().filter(|job| !self.has_done(job)).copied().collect();
        jobs.truncate(self.evaluations_left());
        self.wave(&jobs).map(drop)
    }
}

/// Among those that passed, the one with the largest mean gain; the earlier
/// of two equal ones.
fn best_passed(decisions: &[(usize, Decision)]) -> Option<usize> {
    let mut best: Option<(usize, f64)> = None;
    for (at, (_, decision)) in decisions.iter().enumerate() {
        let mean = decision.gain.as_ref().map_or(f64::NEG_INFINITY, |gain| gain.mean);
        if decision.ruling == Ruling::Passed && best.is_none_or(|(_, so_far)| mean > so_far) {
            best = Some((at, mean));
        }
    }
    best.map(|(at, _)| at)
}

/// The first line of a candidate's words, bounded.
fn one_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().filter(|c| !c.is_control()).take(300).collect()
}
