/**
 * Bundles the page of `dmapool web` with uPlot, as part of `npm run build`. The output starts with uPlot's licence, which
 * requires that.
 */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

import { build } from 'esbuild';

const path = (file) => fileURLToPath(new URL(`../${file}`, import.meta.url));
const licence = `/*! uPlot\n\n${readFileSync(path('node_modules/uplot/LICENSE'), 'utf8').trim()}\n*/`;

await build({
  entryPoints: { main: path('src/observe/page/main.ts'), chart: path('node_modules/uplot/dist/uPlot.min.css') },
  outdir: path('dist/src/observe/page'),
  bundle: true,
  minify: true,
  format: 'esm',
  target: 'es2022',
  banner: { js: licence, css: licence },
  logLevel: 'warning',
});
