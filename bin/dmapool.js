#!/usr/bin/env node
import { existsSync } from 'node:fs';

const main = new URL('../dist/src/cli/main.js', import.meta.url);

if (existsSync(main)) {
  const { processIo, run } = await import(main.href);
  process.exitCode = await run(process.argv.slice(2), processIo());
} else {
  console.error('dmapool: not built yet; run `npm run build` in the checkout first');
  process.exitCode = 2;
}
