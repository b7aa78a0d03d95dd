//! The report as Markdown and as a bar chart.

use crate::report::{Head, Median, Report};
use crate::rows::{PIPE_SAME, SAME_CPU, Unit};
use crate::servers::{AUTO, BARE, Library, Variant};
use resvg::{tiny_skia, usvg};
use std::fmt::Write as _;

/// Whether a row wants the server on another CPU than the client.
fn crosses(head: &Head) -> bool {
    head.name.contains("other CPU:")
}

/// How many times better xfuse's best mode is than a peer's; above 1 is ahead.
fn ratio(report: &Report, head: &Head, peer: Library) -> Option<f64> {
    let (ours, theirs) = (report.best(head, Library::Xfuse)?.1.value, report.best(head, peer)?.1.value);
    let ratio = if head.unit.higher_is_better() { ours / theirs } else { theirs / ours };
    ratio.is_finite().then_some(ratio)
}

/// How many times less CPU per operation xfuse's fastest mode takes than a peer's fastest.
fn cpu_ratio(report: &Report, head: &Head, peer: Library) -> Option<f64> {
    let ratio = report.best(head, peer)?.1.cpu()? / report.best(head, Library::Xfuse)?.1.cpu()?;
    ratio.is_finite().then_some(ratio)
}

/// All tables.
pub fn markdown(report: &Report) -> String {
    let mut out = String::new();
    introduction(report, &mut out);
    compared(report, &mut out);
    goals(report, &mut out);
    floor(report, &mut out);
    out.push_str("\n## Every server\n\nMedians; `~` where every round was on a busy machine.\n\n");
    wide(report, &mut out, true, |median| show(median.value) + mark(median));
    out.push_str("\n99th percentile of latency, µs:\n\n");
    wide(report, &mut out, false, |median| median.p99_us.map_or_else(String::new, show));
    out.push_str(
        "\nCPU of server + client, µs per operation (per MiB in sequential rows; ms per second in B3, with the times \
         per second that the server's threads went to sleep):\n\n",
    );
    wide(report, &mut out, false, |median| {
        let (Some(server), Some(client)) = (median.server_cpu, median.client_cpu) else {
            return median.server_cpu.map_or_else(String::new, show);
        };
        let sleeps = median.sleeps.map_or_else(String::new, |sleeps| format!(" ({sleeps:.0}/s)"));
        format!("{} + {}{sleeps}", show(server), show(client))
    });
    failures(report, &mut out);
    out
}

fn introduction(report: &Report, out: &mut String) {
    let about = &report.about;
    let (quiet, all) = report.quiet_sections();
    let _ = writeln!(
        out,
        "Kernel {}, {} × {}, libfuse {}. {} rounds, {} files, {} MiB sequential, {} ms per latency. Of {all} sections \
         {quiet} ran on a quiet machine; medians are over those where a row has any.\n",
        about.kernel,
        about.cpus,
        about.cpu,
        about.libfuse.as_deref().unwrap_or("missing"),
        report.rounds,
        about.files,
        about.sequential_mib,
        about.moment_ms,
    );
    if quiet < all {
        out.push_str("**The machine was busy at times: figures marked `~` say little.**\n\n");
    }
    out.push_str("| baseline | µs | p99 |\n|---|---|---|\n");
    for head in &report.heads {
        if let Some(median) = report.baseline_median(&head.name) {
            let p99 = median.p99_us.map_or_else(String::new, show);
            let _ = writeln!(out, "| {} | {}{} | {p99} |", head.name, show(median.value), mark(&median));
        }
    }
}

fn mark(median: &Median) -> &'static str {
    if median.quiet { "" } else { " ~" }
}

/// Each library's best mode, and the ratios.
fn compared(report: &Report, out: &mut String) {
    let libraries = [Library::Xfuse, Library::Libfuse, Library::Fuser, Library::BackendRs];
    out.push_str("\n## Best mode of each library\n\nRatios above 1: xfuse is ahead. †: its threads follow the client to its CPU by themselves.\n\n| row | unit |");
    for library in libraries {
        let _ = write!(out, " {} |", library.name());
    }
    for peer in Library::PEERS {
        let _ = write!(out, " xfuse : {} | CPU |", peer.name());
    }
    out.push_str("\n|---|---|");
    out.push_str(&"---|".repeat(libraries.len() + 2 * Library::PEERS.len()));
    out.push('\n');
    for head in report.heads.iter().filter(|head| report.baseline_median(&head.name).is_none()) {
        if libraries.iter().all(|library| report.best(head, *library).is_none()) {
            continue;
        }
        let _ = write!(out, "| {} | {} |", head.name, head.unit.name());
        for library in libraries {
            let text = report.best(head, library).map_or("failed".into(), |(variant, median)| {
                let itself = if crosses(head) && variant.pins_itself() { " †" } else { "" };
                format!("{}{} ({}{itself})", show(median.value), mark(&median), variant.name)
            });
            let _ = write!(out, " {text} |");
        }
        for peer in Library::PEERS {
            let show = |value: Option<f64>| value.map_or_else(|| "-".into(), |value| format!("{value:.2}"));
            let _ = write!(out, " **{}** |", show(ratio(report, head, peer)));
            let _ = write!(out, " {} |", show(cpu_ratio(report, head, peer)));
        }
        out.push('\n');
    }
}

/// What shall be reached, and what was.
fn goals(report: &Report, out: &mut String) {
    let value = |name: &str, library| {
        let head = report.heads.iter().find(|head| head.name == name)?;
        Some(report.best(head, library)?.1.value)
    };
    // Crossing CPUs is what the goal is about: modes that avoid it have lines of their own.
    let crossing = |name: &str| {
        let head = report.heads.iter().find(|head| head.name == name)?;
        let stays = |variant: &Variant| variant.library() == Library::Xfuse && !variant.pins_itself();
        Some(report.best_of(head, stays)?.1.value)
    };
    let mut lines: Vec<(String, Option<f64>, f64)> = Vec::new();
    let over = |ours: Option<f64>, base: Option<f64>| Some(ours? / base?);
    for op in ["pread 4 KiB", "fstat"] {
        let same = format!("B1 same CPU: {op}");
        let (other, awake) = (format!("B1 other CPU: {op}"), format!("B1 other CPU: {op}, PM QoS"));
        let ours = |name: &str| value(name, Library::Xfuse);
        let pipe = report.baseline_median(PIPE_SAME).map(|median| median.value);
        let libfuse = value(&other, Library::Libfuse);
        lines.push((format!("{op}, same CPU, over the pipe"), over(ours(&same), pipe), 1.25));
        let on_same = value(&same, Library::Libfuse);
        lines.push((format!("{op}, same CPU, over libfuse"), over(ours(&same), on_same), 1.0));
        lines.push((format!("{op}, other CPU, over libfuse blocking"), over(crossing(&other), libfuse), 0.4));
        lines.push((format!("{op}, other CPU, any mode †, over libfuse"), over(ours(&other), libfuse), 0.4));
        let text = format!("{op}, other CPU with PM QoS, over libfuse blocking without");
        lines.push((text, over(crossing(&awake), libfuse), 0.2));
    }
    // For ratios that count the other way round, the worst peer's reciprocal is held against 1.
    for head in &report.heads {
        let sequential = head.name.starts_with("B2 sequential") && head.name.contains("1 MiB");
        let small = head.name.starts_with("B2") && head.unit == Unit::OpsPerSecond;
        if sequential || small {
            lines.push((format!("{}, best peer over xfuse", head.name), worst(report, head, ratio), 1.0));
        }
        if sequential {
            let peers = Library::PEERS.iter().filter_map(|peer| Some(report.best(head, *peer)?.1.value));
            let best = peers.max_by(f64::total_cmp);
            let auto = report.median(&head.name, AUTO).map(|median| median.value);
            lines.push((format!("{}, best peer over {AUTO}", head.name), over(best, auto), 1.0));
        }
        if small {
            let text = format!("{}, CPU per operation over the leanest peer", head.name);
            lines.push((text, worst(report, head, cpu_ratio), 1.0));
        }
    }
    let idle = report.servers().into_iter().filter(|server| server.library() == Library::Xfuse);
    let sleeps = idle.filter_map(|server| report.median("B3 server CPU, idle", server.name)?.sleeps);
    lines.push(("wake-ups per second of an idle xfuse, any mode".into(), sleeps.max_by(f64::total_cmp), 0.0));
    out.push_str("\n## Goals\n\n| figure | at most | measured | |\n|---|---|---|---|\n");
    for (name, measured, most) in lines {
        let verdict = match measured {
            Some(measured) if measured <= most => "reached",
            Some(_) => "**missed**",
            None => "not measured",
        };
        let measured = measured.map_or_else(|| "-".into(), |value| format!("{value:.2}"));
        let _ = writeln!(out, "| {name} | {most} | {measured} | {verdict} |");
    }
}

/// What no server can go below, and how far above it xfuse is.
fn floor(report: &Report, out: &mut String) {
    let pipe = report.baseline_median(PIPE_SAME).map(|median| median.value);
    let show = |value: Option<f64>| value.map_or_else(|| "-".into(), show);
    let mut rows = String::new();
    for head in report.heads.iter().filter(|head| head.name.starts_with(SAME_CPU)) {
        let Some(bare) = report.median(&head.name, BARE).map(|median| median.value) else { continue };
        let ours = report.best(head, Library::Xfuse).map(|(_, median)| median.value / bare);
        let over = pipe.filter(|_| !head.name.contains("gap")).map(|pipe| bare / pipe);
        let _ = writeln!(rows, "| {} | {} | {} | {} |", head.name, show(Some(bare)), show(ours), show(over));
    }
    if !rows.is_empty() {
        let _ = write!(
            out,
            "\n## The floor\n\n`{BARE}` only reads requests and writes prepared answers: the rest is the kernel's. It is no \
             peer.\n\n| row | {BARE}, µs | xfuse : {BARE} | {BARE} : pipe |\n|---|---|---|---|\n{rows}"
        );
    }
}

/// The largest of the peers' advantages over xfuse, by a ratio that is above 1 where xfuse is ahead.
fn worst(report: &Report, head: &Head, ratio: fn(&Report, &Head, Library) -> Option<f64>) -> Option<f64> {
    let reciprocals = Library::PEERS.iter().filter_map(|peer| Some(1.0 / ratio(report, head, *peer)?));
    reciprocals.max_by(f64::total_cmp)
}

/// A table with a column for each server.
fn wide(report: &Report, out: &mut String, with_unit: bool, text: impl Fn(&Median) -> String) {
    let servers = report.servers();
    out.push_str(if with_unit { "| row | unit |" } else { "| row |" });
    for server in &servers {
        let _ = write!(out, " {} |", server.name);
    }
    out.push_str("\n|---|");
    out.push_str(&"---|".repeat(servers.len() + usize::from(with_unit)));
    out.push('\n');
    for head in &report.heads {
        let cells: Vec<String> = servers
            .iter()
            .map(|server| match report.median(&head.name, server.name) {
                Some(median) => text(&median),
                None if report.failed(&head.name, server.name) => "failed".into(),
                None => String::new(),
            })
            .collect();
        if cells.iter().any(|cell| !cell.is_empty() && cell != "failed") {
            let unit = if with_unit { format!(" {} |", head.unit.name()) } else { String::new() };
            let _ = writeln!(out, "| {} |{unit} {} |", head.name, cells.join(" | "));
        }
    }
}

fn failures(report: &Report, out: &mut String) {
    let errors = report.errors();
    if errors.is_empty() {
        return;
    }
    out.push_str("\n## Failures\n\n");
    for ((server, error), rows) in errors {
        let more = if rows.len() > 1 { format!(" and {} more", rows.len() - 1) } else { String::new() };
        let _ = writeln!(out, "- {server}, {}{more}: {error}", rows.first().unwrap_or(&""));
    }
}

fn show(value: f64) -> String {
    if value >= 100.0 { format!("{value:.0}") } else { format!("{value:.2}") }
}

/// Bars of the ratio to each peer, on a logarithmic scale; the line is equality.
pub fn plot(report: &Report) -> Result<Vec<u8>, String> {
    const MIDDLE: f32 = 560.0;
    /// Pixels of a factor of two.
    const DOUBLE: f32 = 90.0;
    const COLORS: [&str; 3] = ["#3b6ea8", "#d98032", "#5a9a57"];
    let rows: Vec<&Head> = report
        .heads
        .iter()
        .filter(|head| Library::PEERS.iter().any(|peer| ratio(report, head, *peer).is_some()))
        .collect();
    let height = 70 + rows.len() * 40;
    let mut svg = format!(
        "<svg xmlns='http://www.w3.org/2000/svg' width='1000' height='{height}' font-family='DejaVu Sans' font-size='11'>\
         <rect width='100%' height='100%' fill='white'/>\
         <text x='10' y='22' font-size='16'>xfuse against its peers, best mode of each: right of the line xfuse is ahead</text>"
    );
    let (quiet, all) = report.quiet_sections();
    if quiet < all {
        let _ = write!(
            svg,
            "<text x='560' y='43' fill='#b00'>{quiet} of {all} sections on a quiet machine</text>"
        );
    }
    for (nth, peer) in Library::PEERS.into_iter().enumerate() {
        let x = 10 + nth * 130;
        let _ = write!(
            svg,
            "<rect x='{x}' y='34' width='10' height='10' fill='{}'/><text x='{}' y='43'>{}</text>",
            COLORS[nth],
            x + 15,
            peer.name()
        );
    }
    for (index, head) in rows.iter().enumerate() {
        let y = 60 + index * 40;
        let _ = write!(svg, "<text x='10' y='{}'>{}</text>", y + 20, head.name);
        for (nth, peer) in Library::PEERS.into_iter().enumerate() {
            let Some(ratio) = ratio(report, head, peer) else { continue };
            let length = (ratio.log2() as f32 * DOUBLE).clamp(-200.0, 380.0);
            let (x, top) = (MIDDLE + length.min(0.0), y + nth * 11);
            let _ = write!(
                svg,
                "<rect x='{x}' y='{top}' width='{}' height='10' fill='{}'/><text x='{}' y='{}' font-size='9'>{ratio:.2}</text>",
                length.abs(),
                COLORS[nth],
                MIDDLE + length.max(0.0) + 4.0,
                top + 9
            );
        }
    }
    let _ = write!(svg, "<line x1='{MIDDLE}' y1='50' x2='{MIDDLE}' y2='{height}' stroke='black'/></svg>");
    let mut options = usvg::Options::default();
    options.fontdb_mut().load_system_fonts();
    let tree = usvg::Tree::from_str(&svg, &options).map_err(|error| error.to_string())?;
    let size = tree.size().to_int_size();
    let mut pixmap = tiny_skia::Pixmap::new(size.width(), size.height()).ok_or("the plot is too large")?;
    resvg::render(&tree, tiny_skia::Transform::default(), &mut pixmap.as_mut());
    pixmap.encode_png().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{empty, put};

    #[test]
    fn a_report_shows_ratios_goals_and_failures() {
        let mut report = empty();
        for (server, latency, rate) in [("xfuse-uring", 10.0, 300.0), ("libfuse-s", 20.0, 100.0)] {
            put(&mut report, "B1 other CPU: fstat", Unit::Us, server, latency, true);
            put(&mut report, "B2 create x1", Unit::OpsPerSecond, server, rate, true);
        }
        put(&mut report, "B1 same CPU: fstat", Unit::Us, "bare", 5.0, true);
        put(&mut report, "B1 same CPU: fstat", Unit::Us, "xfuse-1", 6.0, true);
        report.baseline(PIPE_SAME, Unit::Us, true, Err("no pipes left".into()));
        let text = markdown(&report);
        assert!(
            text.contains("| 10.00 (xfuse-uring †) | 20.00 (libfuse-s) | failed | failed | **2.00** |"),
            "{text}"
        );
        assert!(
            text.contains("| 300 (xfuse-uring) | 100 (libfuse-s) | failed | failed | **3.00** |"),
            "{text}"
        );
        assert!(
            text.contains("| fstat, other CPU, any mode †, over libfuse | 0.4 | 0.50 | **missed** |"),
            "{text}"
        );
        assert!(text.contains("| B2 create x1, best peer over xfuse | 1 | 0.33 | reached |"), "{text}");
        assert!(text.contains("no pipes left"), "{text}");
        assert!(text.contains("| B1 same CPU: fstat | 5.00 | 1.20 | - |"), "{text}");
        assert!(!text.contains("5.00 (bare)"), "no peer: {text}");
        assert!(plot(&report).unwrap().starts_with(b"\x89PNG"));
    }
}
