// node_client.js FOLDER URL SCENARIO ARGUMENTS: runs one scenario with the `ws` of FOLDER/node_modules, prints JSON.
"use strict";
const { createRequire } = require("node:module");
const [folder, url, name, text] = process.argv.slice(2);
const WebSocket = createRequire(folder + "/")("ws");
const { scenarios } = require("./scenarios.js");

// The tests' certificates are made for the moment; `ws` offers permessage-deflate by itself.
const make = () => new WebSocket(url, { rejectUnauthorized: false });
scenarios[name](make, JSON.parse(text)).then(
  (result) => {
    console.log(JSON.stringify(result));
    process.exit(0);
  },
  (error) => {
    console.error(error);
    process.exit(1);
  },
);
