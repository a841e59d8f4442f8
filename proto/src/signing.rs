//! The byte strings that an agent signs: one unmistakable encoding for each purpose.

/// What an agent signs in its `Hello`: the hub's nonce and everything it claims about itself.
///
/// `"muster.v1.hello" 0x00 | len nonce | len node_id | last_epoch | boot | len boot_id`, integers big-endian,
/// lengths as u32.
#[must_use]
pub fn hello(nonce: &[u8], node_id: &str, last_epoch: u64, boot: u64, boot_id: &[u8]) -> Vec<u8> {
    let mut out = b"muster.v1.hello\0".to_vec();
    push(&mut out, nonce);
    push(&mut out, node_id.as_bytes());
    out.extend_from_slice(&last_epoch.to_be_bytes());
    out.extend_from_slice(&boot.to_be_bytes());
    push(&mut out, boot_id);
    out
}

/// What an agent signs in its `EnrolRequest`: proof that it holds the key it enrols.
///
/// `"muster.v1.enrol" 0x00 | len join_token | len public_key`, lengths as big-endian u32.
#[must_use]
pub fn enrol(join_token: &str, public_key: &[u8]) -> Vec<u8> {
    let mut out = b"muster.v1.enrol\0".to_vec();
    push(&mut out, join_token.as_bytes());
    push(&mut out, public_key);
    out
}

fn push(out: &mut Vec<u8>, part: &[u8]) {
    let len = u32::try_from(part.len()).unwrap_or(u32::MAX);
    out.extend_from_slice(&len.to_be_bytes());
    out.extend_from_slice(part);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_cannot_run_into_each_other() {
        assert_ne!(hello(b"ab", "c", 1, 2, b"d"), hello(b"a", "bc", 1, 2, b"d"));
        assert_ne!(enrol("ab", b"c"), enrol("a", b"bc"));
    }

    #[test]
    fn the_encoding_is_fixed() {
        assert_eq!(
            hello(&[7], "n", 1, 2, &[9]),
            b"muster.v1.hello\0\0\0\0\x01\x07\0\0\0\x01n\0\0\0\0\0\0\0\x01\0\0\0\0\0\0\0\x02\0\0\0\x01\x09"
        );
    }
}
