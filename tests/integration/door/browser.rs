//! A browser without a window, told what to do through a pipe (the DevTools protocol).

use crate::support::{PATIENCE, make_fifo};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
    sync::mpsc::{Receiver, channel},
    thread,
};
use tempfile::TempDir;

/// A browser with one page; killed when dropped.
pub(super) struct Browser {
    child: Child,
    commands: File,
    messages: Receiver<Value>,
    session: Value,
    sent: u64,
    /// What was said while something else was waited for.
    pub(super) heard: Vec<Value>,
    _profile: TempDir,
}

impl Browser {
    pub(super) fn start() -> Self {
        let profile = tempfile::tempdir().expect("a directory");
        let [to, from, log] = ["to", "from", "log"].map(|name| profile.path().join(name));
        [&to, &from].into_iter().for_each(|pipe| make_fifo(pipe));
        // The protocol is spoken on descriptors 3 and 4.
        let script = r#"exec chromium --headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run \
            --disable-extensions --remote-debugging-pipe --user-data-dir="$2" about:blank 3<"$0" 4>"$1""#;
        let child = Command::new("sh")
            .args(["-c", script])
            .args([&to, &from, &profile.path().join("profile")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a file"))
            .spawn()
            .expect("there is a shell");
        let commands = File::options().write(true).open(&to).expect("the browser listens");
        let answers = BufReader::new(File::open(&from).expect("the browser speaks"));
        let (sender, messages) = channel();
        thread::spawn(move || {
            for message in answers.split(0).map_while(Result::ok) {
                let message = serde_json::from_slice(&message).expect("JSON");
                if sender.send(message).is_err() {
                    return;
                }
            }
        });
        let (session, heard) = (Value::Null, Vec::new());
        let mut browser =
            Self { child, commands, messages, session, sent: 0, heard, _profile: profile };
        let target = browser.call("Target.createTarget", json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        browser.session = browser.call("Target.attachToTarget", attach)["sessionId"].clone();
        for domain in ["Page", "Runtime", "Log", "Network", "Accessibility"] {
            browser.call(&format!("{domain}.enable"), json!({}));
        }
        browser
    }

    /// Does something, and says what came of it.
    #[track_caller]
    pub(super) fn call(&mut self, method: &str, params: Value) -> Value {
        self.sent += 1;
        let mut message = json!({ "id": self.sent, "method": method, "params": params });
        if self.session.is_string() {
            message["sessionId"] = self.session.clone();
        }
        self.commands.write_all(format!("{message}\0").as_bytes()).expect("the browser listens");
        loop {
            let answer = self.messages.recv_timeout(PATIENCE).unwrap_or_else(|_| {
                let log = fs::read_to_string(self._profile.path().join("log")).unwrap_or_default();
                panic!("no answer to {method}; is chromium installed? {log}")
            });
            if answer["id"] != self.sent {
                self.heard.push(answer);
                continue;
            }
            assert!(answer["error"].is_null(), "{method}: {answer}");
            return answer["result"].clone();
        }
    }

    /// The value of an expression on the page.
    #[track_caller]
    pub(super) fn value(&mut self, expression: &str) -> Value {
        let params = json!({ "expression": expression, "returnByValue": true });
        let answer = self.call("Runtime.evaluate", params);
        assert!(answer["exceptionDetails"].is_null(), "{expression}: {answer}");
        answer["result"]["value"].clone()
    }

    /// What a person reads in a part of the page; nothing before it is there.
    #[track_caller]
    pub(super) fn text(&mut self, selector: &str) -> String {
        let text = self.value(&format!("document.querySelector({selector:?})?.innerText ?? ''"));
        text.as_str().expect("text").replace('\u{a0}', " ")
    }

    /// A screen of this width, light or dark.
    pub(super) fn screen(&mut self, width: u32, scheme: &str) {
        let size =
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.call("Emulation.setDeviceMetricsOverride", size);
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.call("Emulation.setEmulatedMedia", features);
    }

    pub(super) fn open(&mut self, url: &str) {
        self.call("Page.navigate", json!({ "url": url }));
    }

    /// Presses and lets go of a key.
    pub(super) fn press(&mut self, key: &str) {
        for kind in ["keyDown", "keyUp"] {
            self.call(
                "Input.dispatchKeyEvent",
                json!({ "type": kind, "key": key, "code": key, "windowsVirtualKeyCode": 9 }),
            );
        }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
