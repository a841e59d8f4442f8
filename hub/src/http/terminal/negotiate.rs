//! Which representation of a terminal a client wants (RFC 9110, section 12.5.1).

use http::HeaderMap;
use http::header::ACCEPT;

use crate::error::{ErrorCode, HubError, HubResult};

/// What a terminal can be answered as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Representation {
    /// `application/json`
    Json,
    /// `application/octet-stream`
    Bytes,
    /// `text/plain`
    Text,
    /// `text/event-stream`
    Events,
}

impl Representation {
    const fn media_type(self) -> (&'static str, &'static str) {
        match self {
            Self::Json => ("application", "json"),
            Self::Bytes => ("application", "octet-stream"),
            Self::Text => ("text", "plain"),
            Self::Events => ("text", "event-stream"),
        }
    }
}

/// Of what there is, best first, the one that fits the `Accept` header best; the first for a client that does not mind.
pub(super) fn choose(headers: &HeaderMap, offers: &[Representation]) -> HubResult<Representation> {
    let accepted: Vec<&str> =
        headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok()).collect();
    let accepted = accepted.join(",");
    if accepted.trim().is_empty() {
        return Ok(offers.first().copied().unwrap_or(Representation::Json));
    }
    let mut best: Option<(u16, Representation)> = None;
    for &offer in offers {
        let (kind, subtype) = offer.media_type();
        let quality = quality(&accepted, kind, subtype);
        if quality > best.map_or(0, |(quality, _)| quality) {
            best = Some((quality, offer));
        }
    }
    best.map(|(_, offer)| offer).ok_or_else(|| {
        let types: Vec<String> = offers
            .iter()
            .map(|offer| offer.media_type())
            .map(|(kind, subtype)| format!("{kind}/{subtype}"))
            .collect();
        HubError::new(ErrorCode::NotAcceptable, format!("ask for {}", types.join(" or ")))
    })
}

/// How much a media type is wanted, in thousandths: what the most specific range that matches it says.
fn quality(accepted: &str, kind: &str, subtype: &str) -> u16 {
    let mut found = (0, 0);
    for range in accepted.split(',') {
        let mut parts = range.split(';').map(str::trim);
        let Some((range_kind, range_subtype)) = parts.next().and_then(|essence| essence.split_once('/'))
        else {
            continue;
        };
        let same = |range: &str, offer: &str| range.eq_ignore_ascii_case(offer);
        let specific = match (range_kind, range_subtype) {
            ("*", "*") => 1,
            (k, "*") if same(k, kind) => 2,
            (k, s) if same(k, kind) && same(s, subtype) => 3,
            _ => continue,
        };
        let weight = parts.find_map(|part| part.strip_prefix("q=").or(part.strip_prefix("Q=")));
        if specific > found.0 {
            found = (specific, weight.map_or(1000, thousandths));
        }
    }
    found.1
}

fn thousandths(weight: &str) -> u16 {
    let weight = weight.trim().parse::<f32>().unwrap_or(0.0).clamp(0.0, 1.0);
    // In range by the line above.
    (weight * 1000.0) as u16
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn chosen(accept: &'static str) -> Option<Representation> {
        let mut headers = HeaderMap::new();
        headers.insert(ACCEPT, HeaderValue::from_static(accept));
        use Representation::{Bytes, Events, Json, Text};
        choose(&headers, &[Json, Bytes, Text, Events]).ok()
    }

    #[test]
    fn the_best_fit_wins() {
        use Representation::{Bytes, Events, Json, Text};
        for (accept, expected) in [
            ("", Some(Json)),
            ("*/*", Some(Json)),
            ("application/json", Some(Json)),
            ("application/octet-stream", Some(Bytes)),
            ("text/plain; charset=utf-8", Some(Text)),
            ("text/*", Some(Text)),
            ("text/event-stream", Some(Events)),
            ("text/plain;q=0.5, application/octet-stream;q=0.8", Some(Bytes)),
            ("*/*;q=0.1, text/plain", Some(Text)),
            ("application/json;q=0, */*", Some(Bytes)),
            ("image/png", None),
            ("application/json;q=0", None),
            ("nonsense", None),
        ] {
            assert_eq!(chosen(accept), expected, "{accept}");
        }
    }
}
