//! The relay page: what the laptop serves to the phone's browser, embedded in the program.

/// The page as the laptop serves it: no file of it asks anything of anybody but this server.
const FILES: [PageFile; 4] = [
    PageFile { path: "/", content_type: "text/html; charset=utf-8", bytes: include_bytes!("page/index.html") },
    PageFile { path: "/style.css", content_type: "text/css; charset=utf-8", bytes: include_bytes!("page/style.css") },
    PageFile {
        path: "/relay.js",
        content_type: "text/javascript; charset=utf-8",
        bytes: include_bytes!("page/relay.js"),
    },
    PageFile { path: "/icon.svg", content_type: "image/svg+xml", bytes: include_bytes!("page/icon.svg") },
];

/// Where the page asks how to reach the gateway; the client answers with [`settings`].
pub const SETTINGS_PATH: &str = "/relay.json";

/// A file of the page.
#[derive(Clone, Copy, Debug)]
pub struct PageFile {
    /// The path that a browser asks for.
    pub path: &'static str,
    /// The Content-Type header.
    pub content_type: &'static str,
    /// The file.
    pub bytes: &'static [u8],
}

/// The file of the page at this path.
pub fn file(path: &str) -> Option<PageFile> {
    FILES.into_iter().find(|file| file.path == path)
}

/// What the page asks for at [`SETTINGS_PATH`]: the gateway's URL, and whether to start with base64 text. JSON; its
/// content type is `application/json`.
pub fn settings(gateway: &crate::http::url::WsUrl, base64: bool) -> Vec<u8> {
    serde_json::json!({ "gateway": gateway.to_string(), "base64": base64 }).to_string().into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It comes over a radio that may be slow, and again at each visit.
    const PAGE_BYTES_MAX: usize = 60_000;

    #[test]
    fn the_page_is_small() {
        let bytes: usize = FILES.iter().map(|file| file.bytes.len()).sum();
        assert!(bytes < PAGE_BYTES_MAX, "{bytes} bytes");
    }

    #[test]
    fn every_file_that_the_page_names_is_served() {
        let html = String::from_utf8_lossy(file("/").expect("the page").bytes);
        for attribute in ["src=\"", "href=\""] {
            for named in html.split(attribute).skip(1) {
                let path = format!("/{}", named.split('"').next().expect("a quoted path"));
                assert!(file(&path).is_some(), "{path}");
            }
        }
    }

    #[test]
    fn the_page_names_no_other_host_and_needs_no_inline_code() {
        for file in FILES {
            let text = String::from_utf8_lossy(file.bytes);
            let text = text.replace("http://www.w3.org/2000/svg", "");
            assert!(!text.contains("http://") && !text.contains("https://"), "{}", file.path);
            assert!(
                !text.contains("<style") && !text.contains("style=") && !text.contains("onclick="),
                "{}",
                file.path
            );
        }
        let html = String::from_utf8_lossy(file("/").expect("the page").bytes);
        assert_eq!(html.matches("<script").count(), html.matches("<script src=").count());
    }

    #[test]
    fn an_unknown_path_has_no_file() {
        assert!(file("/../etc/passwd").is_none());
        assert!(file(SETTINGS_PATH).is_none());
    }
}
