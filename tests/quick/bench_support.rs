//! What the benches share: their histogram, their index of fairness and their plots.

use std::time::Duration;

use histogram::{Histogram, jain};
use plot::{Axis, BarChart, LineChart, Scale, Series};

#[path = "../../benches/support/histogram.rs"]
mod histogram;

#[path = "../../benches/support/plot.rs"]
mod plot;

#[test]
fn a_quantile_is_the_time_that_so_many_did_not_exceed_and_at_most_3_per_cent_more() {
    let histogram = Histogram::default();
    for micros in 1..=1_000 {
        histogram.observe(Duration::from_micros(micros));
    }
    assert_eq!(histogram.count(), 1_000);
    for (q, micros) in [(0.0, 1), (0.001, 1), (0.5, 500), (0.99, 990), (1.0, 1_000)] {
        let (exact, given) = (Duration::from_micros(micros), histogram.quantile(q).unwrap());
        assert!(given >= exact && given.as_secs_f64() <= 1.032 * exact.as_secs_f64(), "{q}: {given:?}, not {exact:?}");
    }
}

#[test]
fn every_time_has_a_bucket_the_longest_too_and_nothing_counted_has_no_quantile() {
    let histogram = Histogram::default();
    assert_eq!(histogram.quantile(0.5), None);
    for shift in 0..64 {
        for nanos in [1_u64 << shift, (1 << shift) - 1, u64::MAX >> shift] {
            let one = Histogram::default();
            one.observe(Duration::from_nanos(nanos));
            let given = one.quantile(0.5).unwrap().as_nanos();
            assert!(given >= nanos.into() && given <= u128::from(nanos) * 33 / 32, "{nanos}: {given}");
        }
    }
}

#[test]
fn jains_index_is_one_for_equal_shares_and_one_in_n_where_one_has_all() {
    assert_eq!(jain(&[7, 7, 7, 7]), Some(1.0));
    assert_eq!(jain(&[9, 0, 0, 0]), Some(0.25));
    assert_eq!(jain(&[0, 0]), None, "nobody has anything");
}

fn axis(label: &str, scale: Scale, ticks: &[f64]) -> Axis {
    Axis { label: label.to_owned(), scale, ticks: ticks.to_vec() }
}

fn line_chart(y: Axis, points: &[(f64, f64)]) -> String {
    let chart = LineChart {
        title: "a < b".to_owned(),
        source: "a machine & a day".to_owned(),
        x: axis("tethers", Scale::Log, &[1.0, 10.0, 100.0]),
        y,
        series: vec![Series { label: "one".to_owned(), points: points.to_vec() }],
    };
    chart.svg().unwrap()
}

#[test]
fn a_point_stands_where_its_axes_put_it() {
    let svg = line_chart(axis("served", Scale::Linear, &[0.0, 100.0]), &[(1.0, 0.0), (10.0, 50.0), (100.0, 100.0)]);
    assert!(svg.contains(r#"points="70.0,326.0 315.0,191.0 560.0,56.0""#), "{svg}");
}

#[test]
fn an_axis_without_ticks_of_its_own_gets_round_ones_around_the_figures() {
    let linear = line_chart(axis("served", Scale::Linear, &[]), &[(1.0, 12.0), (100.0, 9_730.0)]);
    for tick in ["0", "2,000", "10,000"] {
        assert!(linear.contains(&format!(">{tick}</text>")), "{tick} in {linear}");
    }
    let log = line_chart(axis("ms", Scale::Log, &[]), &[(1.0, 0.3), (100.0, 730.0)]);
    for tick in ["0.1", "1", "10", "100", "1,000"] {
        assert!(log.contains(&format!(">{tick}</text>")), "{tick} in {log}");
    }
}

#[test]
fn a_plot_says_what_it_shows_and_where_it_comes_from_whatever_signs_are_in_it() {
    let svg = line_chart(axis("served", Scale::Linear, &[]), &[]);
    for text in ["a &lt; b", "a machine &amp; a day", ">tethers<", ">served<", ">one<"] {
        assert!(svg.contains(text), "{text} in {svg}");
    }
    assert!(!svg.contains("NaN") && !svg.contains("inf"), "a chart without figures is empty, not broken: {svg}");
}

#[test]
fn a_bar_is_as_high_as_its_figure_and_one_without_says_so() {
    let bars = vec![("half".to_owned(), Some(0.5)), ("all".to_owned(), Some(1.0)), ("none".to_owned(), None)];
    let chart = BarChart { title: "t".to_owned(), source: "s".to_owned(), label: "index".to_owned(), bars };
    let svg = chart.svg().unwrap();
    for text in [r#"height="135.0""#, r#"height="270.0""#, ">0.5</text>", ">no figure</text>"] {
        assert!(svg.contains(text), "{text} in {svg}");
    }
}
