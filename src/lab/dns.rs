//! As much of DNS (RFC 1035) as a throw-away internet needs: one question, one address.

use std::net::Ipv4Addr;

const HEADER_BYTES: usize = 12;
const TYPE_A: u16 = 1;
const CLASS_IN: u16 = 1;
/// QR and RA, with RD copied from the question.
const IS_ANSWER: u16 = 0x8080;
const RECURSION_DESIRED: u16 = 0x0100;
const NO_SUCH_NAME: u16 = 3;
/// A pointer to the name of the question (RFC 1035, 4.1.4).
const QUESTION_NAME: u16 = 0xc000 | HEADER_BYTES as u16;
const TTL_S: u32 = 60;
const LABEL_BYTES_MAX: usize = 63;

/// Asks for the address of `name`.
pub fn question(id: u16, name: &str) -> Vec<u8> {
    let mut bytes = words(&[id, RECURSION_DESIRED, 1, 0, 0, 0]);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(LABEL_BYTES_MAX)];
        bytes.push(label.len() as u8);
        bytes.extend(label);
    }
    bytes.push(0);
    bytes.extend(words(&[TYPE_A, CLASS_IN]));
    bytes
}

/// Answers a question by what `zone` knows of the name, in lower case; of other types than A there is nothing. `None`
/// for bytes that are no question.
pub fn answer(question: &[u8], zone: impl Fn(&str) -> Option<Ipv4Addr>) -> Option<Vec<u8>> {
    let (id, flags) = (word(question, 0)?, word(question, 2)?);
    if flags & 0x8000 != 0 || word(question, 4)? != 1 {
        return None;
    }
    let (name, end) = read_name(question, HEADER_BYTES)?;
    let asked = (word(question, end)?, word(question, end + 2)?);
    let known = zone(&name);
    let address = known.filter(|_| asked == (TYPE_A, CLASS_IN));
    let code = if known.is_some() { 0 } else { NO_SUCH_NAME };
    let head = [id, IS_ANSWER | flags & RECURSION_DESIRED | code, 1, address.is_some().into(), 0, 0];
    let mut bytes = words(&head);
    bytes.extend_from_slice(question.get(HEADER_BYTES..end + 4)?);
    if let Some(address) = address {
        bytes.extend(words(&[QUESTION_NAME, TYPE_A, CLASS_IN]));
        bytes.extend(TTL_S.to_be_bytes());
        bytes.extend(words(&[4]));
        bytes.extend(address.octets());
    }
    Some(bytes)
}

/// The address in the answer to the question `id`; `None` where there is none in it, or it is no such answer.
pub fn address(answer: &[u8], id: u16) -> Option<Ipv4Addr> {
    let (flags, answers) = (word(answer, 2)?, word(answer, 6)?);
    if word(answer, 0)? != id || flags & 0x800f != 0x8000 || answers == 0 {
        return None;
    }
    let (_, question_end) = read_name(answer, HEADER_BYTES)?;
    // The name of the answer is a pointer: two bytes, then type, class, TTL and length.
    let record = question_end + 4;
    let is_address = word(answer, record)? == QUESTION_NAME
        && (word(answer, record + 2)?, word(answer, record + 4)?, word(answer, record + 10)?) == (TYPE_A, CLASS_IN, 4);
    let octets: [u8; 4] = answer.get(record + 12..record + 16)?.try_into().ok()?;
    is_address.then(|| octets.into())
}

/// The name at `at`, which must not be compressed, and where it ends.
fn read_name(bytes: &[u8], mut at: usize) -> Option<(String, usize)> {
    let mut labels = Vec::new();
    loop {
        let length = usize::from(*bytes.get(at)?);
        at += 1;
        if length == 0 {
            return Some((labels.join("."), at));
        }
        if length > LABEL_BYTES_MAX {
            return None;
        }
        labels.push(String::from_utf8_lossy(bytes.get(at..at + length)?).to_lowercase());
        at += length;
    }
}

fn words(words: &[u16]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_be_bytes()).collect()
}

fn word(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes(bytes.get(at..at + 2)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 2);

    fn zone(name: &str) -> Option<Ipv4Addr> {
        (name == "internet.example").then_some(HOST)
    }

    #[test]
    fn a_known_name_has_its_address_in_any_case_of_letters() {
        let answered = answer(&question(7, "Internet.Example"), zone).expect("an answer");
        assert_eq!(address(&answered, 7), Some(HOST));
        assert_eq!(address(&answered, 8), None, "the answer to another question");
    }

    #[test]
    fn an_unknown_name_does_not_exist() {
        let answered = answer(&question(7, "elsewhere.example"), zone).expect("an answer");
        assert_eq!((word(&answered, 2).map(|flags| flags & 0xf), address(&answered, 7)), (Some(NO_SUCH_NAME), None));
    }

    #[test]
    fn a_known_name_has_no_address_of_another_type_and_yet_exists() {
        let mut asked = question(7, "internet.example");
        let type_at = asked.len() - 4;
        asked[type_at..type_at + 2].copy_from_slice(&28_u16.to_be_bytes());
        let answered = answer(&asked, zone).expect("an answer");
        assert_eq!((word(&answered, 2).map(|flags| flags & 0xf), word(&answered, 6)), (Some(0), Some(0)));
    }

    #[test]
    fn an_answer_is_not_answered() {
        let answered = answer(&question(7, "internet.example"), zone).expect("an answer");
        assert_eq!(answer(&answered, zone), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let _ = answer(&bytes, zone);
            let _ = address(&bytes, 7);
        }

        #[test]
        fn any_name_is_asked_for_without_a_panic(name in "\\PC{0,200}") {
            let _ = answer(&question(7, &name), zone);
        }
    }
}
