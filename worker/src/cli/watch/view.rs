//! What is on the screen: a pure function of what was found out.

use std::collections::VecDeque;
use std::time::Instant;

use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Style, Stylize};
use ratatui::text::Line;
use ratatui::widgets::{Block, Paragraph, Row, Sparkline, Table};
use ratatui::Frame;
use serde_json::Value;

use super::super::status::plain;

/// Rates that are remembered.
const HISTORY: usize = 512;
const TOKENS: &str = "deepnode_worker_output_tokens_total ";

#[derive(Default)]
pub(super) struct View {
    status: Value,
    /// Why the last look failed.
    error: String,
    /// Tokens generated so far, and when.
    tokens: Option<(f64, Instant)>,
    /// Tokens a second between two looks.
    rates: VecDeque<u64>,
    /// Counters and gauges of the process here, by name.
    counters: Vec<(String, String)>,
}

impl View {
    pub fn update(&mut self, status: anyhow::Result<Value>, metrics: Option<&str>, now: Instant) {
        match status {
            Ok(status) => (self.status, self.error) = (status, String::new()),
            // What was known stays on the screen.
            Err(error) => self.error = format!("{error:#}"),
        }
        let lines =
            || metrics.unwrap_or_default().lines().filter(|line| line.starts_with("deepnode_worker_"));
        self.counters = lines()
            .filter_map(|line| line.trim_start_matches("deepnode_worker_").rsplit_once(' '))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        let Some(tokens) = lines().find_map(|line| line.strip_prefix(TOKENS)?.parse::<f64>().ok()) else {
            self.tokens = None;
            return;
        };
        if let Some((before, since)) = self.tokens.replace((tokens, now)) {
            let seconds = now.saturating_duration_since(since).as_secs_f64().max(1e-3);
            // A process that was started again begins at 0.
            let rate = if tokens >= before { (tokens - before) / seconds } else { 0.0 };
            self.rates.push_back(rate.round() as u64);
            if self.rates.len() > HISTORY {
                self.rates.pop_front();
            }
        }
    }

    pub fn draw(&self, frame: &mut Frame<'_>) {
        let rows = [Constraint::Length(1), Constraint::Min(8), Constraint::Length(8), Constraint::Length(1)];
        let [head, middle, low, foot] = Layout::vertical(rows).areas(frame.area());
        let [left, right] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(middle);
        let [rates, records] = Layout::horizontal([Constraint::Fill(1), Constraint::Fill(1)]).areas(low);
        let text = |name: &str| plain(&self.status[name]);
        frame.render_widget(Line::from(format!(" {}  {}", text("chain_id"), text("address"))).bold(), head);
        let mut here = pairs(&self.status["local"]);
        here.extend(self.counters.iter().cloned());
        table(frame, left, "this machine", here);
        let mut chain = pairs(&self.status["worker"]);
        chain.push(("score_micro_cu_epoch".into(), text("score_micro_cu_epoch")));
        table(frame, right, "on the chain", chain);
        let title = match self.rates.back() {
            Some(rate) => format!(" {rate} tokens/s "),
            None => " no tokens/s: the process does not tell its metrics ".into(),
        };
        // The newest are on the right.
        let room = usize::from(rates.width.saturating_sub(2));
        let shown: Vec<u64> =
            self.rates.iter().copied().skip(self.rates.len().saturating_sub(room)).collect();
        let line = Sparkline::default().data(&shown).style(Style::new().fg(Color::Green));
        frame.render_widget(line.block(Block::bordered().title(title)), rates);
        table(frame, records, "reputation", pairs(&self.status["reputation"]));
        let foot_text = match self.error.as_str() {
            "" => Line::from(" q ends").dim(),
            error => Line::from(format!(" {error}")).red(),
        };
        frame.render_widget(Paragraph::new(foot_text), foot);
    }
}

/// The fields of an object; another value stands for itself.
fn pairs(value: &Value) -> Vec<(String, String)> {
    match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (name.clone(), plain(value))).collect(),
        other => vec![(plain(other), String::new())],
    }
}

fn table(frame: &mut Frame<'_>, area: Rect, title: &str, pairs: Vec<(String, String)>) {
    let rows = pairs.into_iter().map(|(name, value)| Row::new([name, value]));
    let widths = [Constraint::Fill(1), Constraint::Fill(1)];
    frame.render_widget(Table::new(rows, widths).block(Block::bordered().title(format!(" {title} "))), area);
}

#[cfg(test)]
mod tests {
    use super::*;
    use ratatui::backend::TestBackend;
    use ratatui::Terminal;
    use serde_json::json;
    use std::time::Duration;

    fn screen(view: &View) -> String {
        let mut terminal = Terminal::new(TestBackend::new(120, 32)).unwrap();
        terminal.draw(|frame| view.draw(frame)).unwrap();
        terminal.backend().to_string()
    }

    #[test]
    fn what_is_known_is_on_the_screen() {
        let mut view = View::default();
        let begin = Instant::now();
        let status = || {
            Ok(json!({
                "address": "dn1worker", "chain_id": "deepnode-1",
                "local": { "running": 2, "queued": 0 },
                "worker": { "status": "active", "bond_udn": "100000000" },
                "reputation": { "llm/llm-300m": "661260000000000000" },
                "score_micro_cu_epoch": "9494423060",
            }))
        };
        let metrics = |tokens: u32| {
            format!("HTTP/1.0 200 OK\r\n\r\n# HELP x\n{TOKENS}{tokens}\ndeepnode_worker_tasks_total{{outcome=\"lost\"}} 3\n")
        };
        view.update(status(), Some(&metrics(100)), begin);
        view.update(status(), Some(&metrics(190)), begin + Duration::from_secs(2));
        let shown = screen(&view);
        for part in [
            "deepnode-1  dn1worker",
            "bond_udn",
            "100000000",
            "llm/llm-300m",
            "45 tokens/s",
            "outcome=\"lost\"",
            "q ends",
        ] {
            assert!(shown.contains(part), "{part} is not in\n{shown}");
        }
        // A node that is away is told of; what was known stays.
        view.update(Err(anyhow::anyhow!("no node answers")), None, begin + Duration::from_secs(4));
        let shown = screen(&view);
        assert!(shown.contains("no node answers") && shown.contains("100000000"), "{shown}");
        // A process that was started again counts from 0.
        view.update(status(), Some(&metrics(10)), begin + Duration::from_secs(6));
        view.update(status(), Some(&metrics(5)), begin + Duration::from_secs(8));
        assert!(screen(&view).contains(" 0 tokens/s"));
    }
}
