// The page: what is on it, and in which order it comes to life.

import { apiKey, offers, onKeyNeeded, requestJson, setApiKey } from "./api.js";
import { byId, showProblem } from "./dom.js";
import { describeListen, setUpListen } from "./listen.js";
import { describeSpeak, setUpSpeak } from "./speak.js";
import { setUpStatus } from "./status.js";
import { setUpTabs } from "./tabs.js";
import { setUpTalk } from "./talk.js";
import { setUpTheme } from "./theme.js";
import { describeVoices, loadVoices, setUpVoices } from "./voices.js";

/** Ask for a key in a dialog; requests that need one at the same time share the one question. */
let question = null;
function askForKey(wasWrong) {
  question ??= new Promise((resolve) => {
    const dialog = byId("key-dialog");
    if (wasWrong) byId("key-text").textContent = "The server does not know this key. Please check it.";
    byId("key-input").value = "";
    dialog.returnValue = "cancel";
    dialog.addEventListener(
      "close",
      () => {
        question = null;
        const key = byId("key-input").value.trim();
        const given = dialog.returnValue === "use" && key !== "";
        if (given) setApiKey(key);
        byId("key").hidden = false;
        resolve(given);
        if (given) load();
      },
      { once: true },
    );
    dialog.showModal();
    byId("key-input").focus();
  });
  return question;
}

/** What comes from the API: names, voices, formats. Again when a key was entered later. */
async function load() {
  try {
    const [offered, models] = await Promise.all([offers(), requestJson("/v1/models"), loadVoices()]);
    const [model] = models.data;
    byId("model").textContent = byId("model").title = model.id;
    byId("random-weights").hidden = !model.random_weights;
    byId("key").hidden = apiKey() === "";
    describeSpeak(offered);
    describeListen(offered, model.id);
    describeVoices(offered);
    showProblem(byId("page-problem"), null);
  } catch (error) {
    showProblem(byId("page-problem"), error);
  }
}

onKeyNeeded(askForKey);
byId("key").addEventListener("click", () => askForKey(false));
byId("key-later").addEventListener("click", () => byId("key-dialog").close("cancel"));
setUpTheme();
setUpSpeak();
setUpListen();
setUpTalk();
setUpVoices();
setUpTabs({ voices: () => loadVoices().catch(() => {}) }); // others may have added some
setUpStatus();
load();
