/** Files of a model from this machine to the host: chosen or dropped, sent with their progress, loaded there. */

import { headers, pathOf, withQuery } from "./api.js";
import { confirm, field, openDialog, tell, tick, trouble } from "./dialogs.js";
import { fill, h, say, set } from "./dom.js";
import { counted, size } from "./format.js";
import { optionsOf, tracebackOf } from "./loading.js";

const MOST_LISTED = 6;

/** Why nothing can be deployed, "" if it can. */
export function noDirectory(store) {
  return store.host && !store.host.models_dir ? "This host has no models directory (models.dir)." : "";
}

/** Ask for an id and files; `given` are files that were dropped, as names and files. */
export function openDeploy(store, given = [], id = "") {
  let files = [];
  let sending = null;
  const name = h("input", { name: "id", value: id, autocomplete: "off", spellcheck: "false" });
  const options = h("textarea", { name: "options", rows: 2, spellcheck: "false" });
  const chosen = h("div", { class: "chosen", "aria-live": "polite" });
  const progress = h("progress", { max: "1", value: "0", "aria-label": "Sent", hidden: true });
  const state = h("p", { class: "hint", role: "status" });
  const wrong = trouble();
  const take = (named) => {
    files = withoutFolder(named);
    if (!name.value && named.length) name.value = folderOf(named);
    fill(chosen, listOf(files));
  };
  const picker = (label, attributes) => {
    const input = h("input", {
      type: "file",
      ...attributes,
      onchange: () => take([...input.files].map((file) => [file.webkitRelativePath || file.name, file])),
    });
    return field(label, input);
  };
  const { close, form, node } = openDialog("Deploy a model", {
    body: [
      h(
        "div",
        {
          class: "drop",
          ondragover: allow,
          ondrop: async (event) => (
            event.preventDefault(),
            event.stopPropagation(),
            take(await dropped(event.dataTransfer))
          ),
        },
        h("p", null, "Drop a model’s folder or files here, or choose them."),
        picker("Folder", { webkitdirectory: true, name: "folder" }),
        picker("Files", { multiple: true, name: "files" }),
        chosen,
      ),
      field("Id", name, "The name to call it by; its folder in the models directory gets the same."),
      field("Options", options, "Of its loader, as a JSON map. May be empty."),
      tick("replace", "Replace the model that has this id; it serves until the new one does"),
      progress,
      state,
      wrong.node,
    ],
    buttons: (closing) => [
      h("button", { type: "button", onclick: closing }, "Cancel"),
      h("button", { type: "submit", class: "main" }, "Deploy"),
    ],
    onsubmit: async () => {
      wrong.say();
      try {
        await send();
      } catch (error) {
        set(progress, "hidden", true);
        say(state, "");
        wrong.say(h("p", null, error.message), tracebackOf(error));
      }
      setBusy(false);
    },
    onclose: () => {
      if (sending && progress.value === 1) tell("All files are sent: the host goes on by itself.");
      else sending?.abort();
    },
  });
  const setBusy = (isBusy) => set(form.querySelector("button.main"), "disabled", isBusy);
  const send = async () => {
    const replace = form.elements.replace.checked;
    const path = address(name.value.trim(), files, options.value, replace);
    if (
      replace &&
      store.models.has(name.value.trim()) &&
      !(await confirm(
        `Replace ${name.value.trim()}?`,
        "Its files are replaced by these. If the new ones do not load, the old ones come back.",
        "Replace",
      ))
    )
      return;
    setBusy(true);
    set(progress, "hidden", false);
    sending = upload(path, files, (share) => {
      progress.value = share;
      say(state, share < 1 ? `${Math.round(100 * share)} % sent` : "All is sent; the host loads it…");
    });
    const record = await sending.answer;
    sending = null;
    if (node.isConnected) close();
    tell(`${record.id} is deployed and loaded.`);
  };
  form.elements.replace.checked = store.models.has(id);
  if (given.length) take(given);
}

function address(id, files, options, replace) {
  if (!files.length) throw new Error("No files are chosen.");
  if (!id) throw new Error("The id is missing.");
  const given = optionsOf(options);
  return withQuery(pathOf(id, "files"), { replace, options: given.options && JSON.stringify(given.options) });
}

// fetch does not tell how much of a body is sent.
function upload(path, files, onProgress) {
  const request = new XMLHttpRequest();
  const answer = new Promise((resolve, reject) => {
    request.upload.onprogress = (event) => onProgress(event.loaded / event.total);
    request.onload = () =>
      request.status === 200 ? resolve(JSON.parse(request.responseText)) : reject(refusalOf(request));
    request.onerror = () => reject(new Error("The connection was lost before the host has answered."));
    request.onabort = () => reject(new Error("It was cancelled."));
  });
  request.open("PUT", new URL(path, document.baseURI));
  for (const [name, value] of Object.entries(headers())) request.setRequestHeader(name, value);
  const form = new FormData();
  for (const [name, file] of files) form.append("files", file, name);
  request.send(form);
  return { answer, abort: () => request.abort() };
}

function refusalOf(request) {
  try {
    const { error, details } = JSON.parse(request.responseText);
    return Object.assign(new Error(error), { details });
  } catch {
    return new Error(`The front answered ${request.status}.`);
  }
}

function listOf(files) {
  const bytes = files.reduce((sum, [, file]) => sum + file.size, 0);
  const more = files.length - MOST_LISTED;
  return [
    h("p", null, h("strong", null, counted(files.length, "file")), `, ${size(bytes)}`),
    h(
      "ul",
      null,
      files.slice(0, MOST_LISTED).map(([name, file]) => h("li", null, h("code", null, name), ` ${size(file.size)}`)),
      more > 0 && h("li", null, `and ${more} more`),
    ),
  ];
}

function folderOf(named) {
  const [first] = named[0][0].split("/");
  return named[0][0].includes("/") ? first : first.replace(/\.[^.]*$/, "");
}

// A folder that is given holds the model; its name is no part of the files' names.
function withoutFolder(named) {
  const folder = named[0]?.[0].includes("/") ? `${named[0][0].split("/")[0]}/` : "";
  const isCommon = folder && named.every(([name]) => name.startsWith(folder));
  return isCommon ? named.map(([name, file]) => [name.slice(folder.length), file]) : named;
}

function allow(event) {
  event.preventDefault();
}

/** Return what was dropped, folders included, as names and files. */
export async function dropped(transfer) {
  // Asked for before anything is awaited: the browser takes the items away then.
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.length) return [...transfer.files].map((file) => [file.name, file]);
  return (await Promise.all(entries.map(filesOf))).flat();
}

async function filesOf(entry) {
  if (entry.isFile)
    return [[entry.fullPath.slice(1), await new Promise((resolve, reject) => entry.file(resolve, reject))]];
  const reader = entry.createReader();
  const found = [];
  for (;;) {
    // A browser gives a hundred at a time.
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return (await Promise.all(found.map(filesOf))).flat();
    found.push(...some);
  }
}

/** Have files that are dropped anywhere on the page open the dialog; `problem` says why they may not. */
export function acceptDrops(store, problem) {
  const isOfFiles = (event) => event.dataTransfer?.types.includes("Files") && !document.querySelector("dialog");
  const show = (isOver) => document.body.classList.toggle("dropping", isOver);
  addEventListener("dragover", (event) => {
    if (!isOfFiles(event)) return;
    event.preventDefault();
    show(true);
  });
  addEventListener("dragleave", (event) => event.relatedTarget || show(false));
  addEventListener("drop", async (event) => {
    show(false);
    if (!isOfFiles(event)) return;
    event.preventDefault();
    const files = await dropped(event.dataTransfer);
    if (problem()) tell(problem(), { isError: true });
    else if (files.length) openDeploy(store, files);
  });
}
