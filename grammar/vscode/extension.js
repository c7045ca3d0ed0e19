// Starts `rldsl lsp` for .rl files.
"use strict";

const { workspace } = require("vscode");
const { LanguageClient } = require("vscode-languageclient/node");

let client;

exports.activate = function activate() {
  const command = workspace.getConfiguration("rldsl").get("path", "rldsl");
  const server = { command, args: ["lsp"] };
  client = new LanguageClient("rldsl", "rldsl", server, { documentSelector: [{ language: "rldsl" }] });
  return client.start();
};

exports.deactivate = function deactivate() {
  return client === undefined ? undefined : client.stop();
};
