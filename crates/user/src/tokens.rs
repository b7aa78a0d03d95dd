//! Which tokens of a user are accepted, and how a new one takes the place of the old (`src/fbs/core/user/User.cc`).

use std::time::Duration;
use valor_protocol::status::code;
use valor_protocol::user::{TokenAttr, UserAttr};
use valor_protocol::{Status, UtcTime, token};

/// How a token is replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Replacement {
    /// The old endless token stops being accepted at once.
    pub invalidate_existed: bool,
    /// With 3FS's counting: fewer than this many tokens less one may have an end.
    pub max_tokens: usize,
    /// How long the old endless token is still accepted otherwise.
    pub lifetime: Duration,
}

impl Default for Replacement {
    fn default() -> Self {
        Self { invalidate_existed: true, max_tokens: 5, lifetime: Duration::from_secs(7 * 24 * 3600) }
    }
}

/// Whether a user's token is accepted now.
///
/// # Errors
/// 66 if it has ended, 64 if it is not one of the user's.
pub fn check(user: &UserAttr, token: &str, now: UtcTime) -> Result<(), Status> {
    if user.token == token {
        return Ok(());
    }
    // The newest of equal ones counts.
    match user.tokens.iter().rev().find(|known| known.token == token) {
        Some(known) if active(known, now) => Ok(()),
        Some(_) => Err(Status::from(code::TOKEN_STALE)),
        None => Err(Status::from(code::TOKEN_MISMATCH)),
    }
}

/// Makes `token` the user's endless token.
///
/// # Errors
/// 67 if the user would have too many tokens; the user is unchanged then.
pub fn replace(user: &mut UserAttr, token: &str, now: UtcTime, how: &Replacement) -> Result<(), Status> {
    if user.token == token {
        return Ok(());
    }
    if !how.invalidate_existed {
        let kept = user.tokens.iter().filter(|known| active(known, now) && known.token != token);
        let mut tokens: Vec<TokenAttr> = kept.cloned().collect();
        tokens.push(TokenAttr { token: user.token.clone(), end_time: after(now, how.lifetime) });
        if tokens.len() + 1 >= how.max_tokens {
            let text = format!("count of tokens by now: {}. max: {}", tokens.len(), how.max_tokens);
            return Err(Status::new(code::TOO_MANY_TOKENS, text));
        }
        user.tokens = tokens;
    }
    user.token = token.to_owned();
    Ok(())
}

/// Refuses a token that was made for another user.
///
/// # Errors
/// 33 for that, and for what is no token.
pub fn check_owner(text: &str, uid: u32) -> Result<(), Status> {
    match token::decode(text) {
        Ok((owner, _)) if owner == uid => Ok(()),
        Ok(_) => Err(Status::new(code::INVALID_FORMAT, "Could not set token from other uid")),
        Err(error) => Err(Status::new(code::INVALID_FORMAT, error.to_string())),
    }
}

fn active(token: &TokenAttr, now: UtcTime) -> bool {
    token.end_time == UtcTime(0) || token.end_time > now
}

fn after(now: UtcTime, span: Duration) -> UtcTime {
    UtcTime(now.0.saturating_add(i64::try_from(span.as_micros()).unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(endless: &str, ending: &[(&str, i64)]) -> UserAttr {
        let attr = |(token, end): &(&str, i64)| TokenAttr { token: (*token).into(), end_time: UtcTime(*end) };
        UserAttr { token: endless.into(), tokens: ending.iter().map(attr).collect(), ..UserAttr::default() }
    }

    const NOW: UtcTime = UtcTime(1_000);

    #[test]
    fn tokens_are_accepted_until_they_end() {
        let user = user("a", &[("b", 1_001), ("c", 1_000), ("d", 0), ("c2", 5), ("c2", 2_000)]);
        let check = |token| check(&user, token, NOW).map_err(|status| status.code);
        assert_eq!(check("a"), Ok(()));
        assert_eq!(check("b"), Ok(()));
        assert_eq!(check("c"), Err(code::TOKEN_STALE));
        assert_eq!(check("d"), Ok(()), "0 is no end");
        assert_eq!(check("c2"), Ok(()));
        assert_eq!(check("x"), Err(code::TOKEN_MISMATCH));
        assert_eq!(check(""), Err(code::TOKEN_MISMATCH));
    }

    #[test]
    fn a_new_token_drops_the_old_one() {
        let mut now = user("a", &[("b", 2_000)]);
        replace(&mut now, "n", NOW, &Replacement::default()).unwrap();
        assert_eq!(now, user("n", &[("b", 2_000)]), "those with an end stay as they were");
    }

    #[test]
    fn or_lets_it_end() {
        let how =
            Replacement { invalidate_existed: false, max_tokens: 5, lifetime: Duration::from_micros(500) };
        let mut now = user("a", &[("b", 2_000), ("old", 900)]);
        replace(&mut now, "n", NOW, &how).unwrap();
        assert_eq!(now, user("n", &[("b", 2_000), ("a", 1_500)]));
        replace(&mut now, "a", NOW, &how).unwrap();
        assert_eq!(
            now,
            user("a", &[("b", 2_000), ("n", 1_500)]),
            "an old one may become the endless one again"
        );
        replace(&mut now, "a", NOW, &how).unwrap();
        assert_eq!(now, user("a", &[("b", 2_000), ("n", 1_500)]), "nothing to do");
    }

    #[test]
    fn a_fourth_token_with_an_end_is_refused() {
        let how = Replacement { invalidate_existed: false, ..Replacement::default() };
        let mut now = user("a", &[("b", 2_000), ("c", 2_000)]);
        replace(&mut now, "n", NOW, &how).unwrap();
        assert_eq!(now.tokens.len(), 3);
        let before = now.clone();
        assert_eq!(replace(&mut now, "m", NOW, &how).unwrap_err().code, code::TOO_MANY_TOKENS);
        assert_eq!(now, before);
    }

    #[test]
    fn tokens_belong_to_one_uid() {
        let text = token::encode(7, 99);
        assert_eq!(check_owner(&text, 7), Ok(()));
        assert_eq!(check_owner(&text, 8).unwrap_err().code, code::INVALID_FORMAT);
        assert_eq!(check_owner("nonsense", 8).unwrap_err().code, code::INVALID_FORMAT);
    }
}
