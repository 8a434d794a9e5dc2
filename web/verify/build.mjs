// Bundles the verifier and the page. Every output is one file that loads nothing.
import { build } from "esbuild";
import { readFile, writeFile, mkdir } from "node:fs/promises";

const common = { bundle: true, format: "esm", target: "es2022", charset: "utf8", legalComments: "none" };
await mkdir("dist", { recursive: true });
await build({ ...common, entryPoints: ["src/index.ts"], outfile: "dist/avow-verify.js" });
const pages = process.argv[2] ?? "../../src/avow/nodes/gateway/pages"; // the gateway's receipt page loads it too
await build({ ...common, minify: true, entryPoints: ["src/index.ts"], outfile: `${pages}/avow-verify.js` });
const page = await build({ ...common, entryPoints: ["src/page.ts"], minify: true, write: false });
const [html, style] = await Promise.all([readFile("src/page.html", "utf8"), readFile("src/page.css", "utf8")]);
const script = page.outputFiles[0].text.replaceAll("</script", "<\\/script");
await writeFile("dist/verify.html", html.replace("/*STYLE*/", () => style).replace("/*SCRIPT*/", () => script));
