//! What pages are made of: pills, tiles, bars, tables, times, and what stands where nothing is.

use maud::{Markup, html};
use regrow_runtime::clock::Timestamp;
use regrow_runtime::ids::TaskId;
use regrow_runtime::queue::task::TaskState;

use super::words::{self, Tone};

/// A word with a tone.
pub(crate) fn pill(tone: Tone, text: &str) -> Markup {
    html! { span .pill .(tone.class()) { (text) } }
}

/// A task's state.
pub(crate) fn state(of: TaskState) -> Markup {
    let (text, tone) = words::state(of);
    pill(tone, text)
}

/// An instant: the time of the day, which the browser turns into how long ago that is.
pub(crate) fn time(at: Timestamp) -> Markup {
    html! { time datetime=(at) title=(at) data-ago { (words::clock(at)) } }
}

/// An instant as it is, with its day.
pub(crate) fn instant(at: Timestamp) -> Markup {
    html! { time datetime=(at) title=(at) { (words::day_and_clock(at)) " UTC" } }
}

/// The last characters of an id, which tell ids of one moment apart, as a way to its task.
pub(crate) fn task_link(id: TaskId) -> Markup {
    html! { a .id href=(format!("/tasks/{id}")) title=(id) { (short(&id.to_string())) } }
}

/// The end of an id.
pub(crate) fn short(id: &str) -> &str {
    let from = id.len().saturating_sub(8);
    id.get(from..).unwrap_or(id)
}

/// A figure with its name and what else there is to say.
pub(crate) fn tile(name: &str, figure: &str, more: &Markup) -> Markup {
    html! {
        div .tile {
            h3 { (name) }
            p .figure { (figure) }
            (more)
        }
    }
}

/// How much of something is in use, 0 to 1, told in words as well.
pub(crate) fn bar(part: f64, tone: Tone, label: &str) -> Markup {
    let width = format!("{:.2}%", part.clamp(0.0, 1.0) * 100.0);
    html! {
        svg .bar .(tone.class()) role="img" aria-label=(label) {
            title { (label) }
            rect .ground width="100%" height="100%" {}
            rect .fill width=(width) height="100%" {}
        }
    }
}

/// A line over time, the newest at the right.
pub(crate) fn line(values: &[f64], label: &str) -> Markup {
    const WIDTH: f64 = 100.0;
    const HEIGHT: f64 = 28.0;
    let max = values.iter().copied().fold(0.0, f64::max);
    let step = WIDTH / (values.len().max(2) - 1) as f64;
    let height = |value: f64| match max > 0.0 {
        true => HEIGHT - 1.0 - value / max * (HEIGHT - 3.0),
        false => HEIGHT - 1.0,
    };
    let points: Vec<String> = values
        .iter()
        .enumerate()
        .map(|(position, value)| format!("{:.1},{:.1}", position as f64 * step, height(*value)))
        .collect();
    html! {
        svg .line viewBox="0 0 100 28" preserveAspectRatio="none" role="img" aria-label=(label) {
            title { (label) }
            @if 1 < points.len() {
                polygon points=(format!("0,{HEIGHT} {} {WIDTH},{HEIGHT}", points.join(" "))) {}
                polyline points=(points.join(" ")) vector-effect="non-scaling-stroke" {}
            }
        }
    }
}

/// What stands where there is nothing yet: what it would be, and how to get there.
pub(crate) fn nothing(what: &str, then: &Markup) -> Markup {
    html! { div .nothing { p { (what) } (then) } }
}

/// A panel with a heading.
pub(crate) fn panel(heading: &str, more: &Markup, content: &Markup) -> Markup {
    html! {
        section .panel {
            header { h2 { (heading) } (more) }
            (content)
        }
    }
}

/// Nothing at all.
pub(crate) fn none() -> Markup {
    html! {}
}

/// An order: a button that asks the API, `question` first if that is not to be taken back.
pub(crate) struct Order<'a> {
    /// What the button says.
    pub(crate) text: &'a str,
    /// The route of the API that is asked, by POST.
    pub(crate) to: &'a str,
    /// The body, as names and values of JSON.
    pub(crate) with: &'a str,
    /// What is asked first.
    pub(crate) question: Option<&'a str>,
    /// What is said once it is done.
    pub(crate) done: &'a str,
    /// Why it cannot be ordered now.
    pub(crate) barred: Option<&'a str>,
}

impl Order<'_> {
    /// The button.
    pub(crate) fn button(&self) -> Markup {
        html! {
            button type="button" .danger[self.question.is_some()]
                hx-post=(self.to) hx-swap="none" hx-confirm=[self.question]
                data-body=[(!self.with.is_empty()).then_some(self.with)]
                data-done=(self.done)
                disabled[self.barred.is_some()] title=[self.barred] { (self.text) }
        }
    }
}

/// Why somebody without `operate` may not order.
pub(crate) const NEEDS_OPERATE: &str = "Your token lacks the scope `operate`";
