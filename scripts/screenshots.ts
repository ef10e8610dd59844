/** `npm run screenshots`: makes the pictures of the documentation, with Chromium. */
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { chromium } from 'playwright-core';

const root = fileURLToPath(new URL('../../', import.meta.url));

/** Two devices; the first has pools of one thread, and one that three workers share. */
const PROGRAM = `
  import { Device, DmaPool } from 'dmapool';
  import { sharePool } from 'dmapool/shared';
  import { Worker } from 'node:worker_threads';
  const log = { error() {}, warn() {}, info() {} };
  const nvme = new Device({ name: '0000:00:09.0', log });
  const ehci = new Device({ name: '0000:00:1d.7', log });
  const traffic = (pool, most, step) => {
    const held = [];
    setInterval(() => {
      for (let i = 0; i < step; i++) {
        if (Math.random() < 0.5 + (most / 2 - held.length) / most) held.push(pool.alloc());
        else held.pop()?.free();
      }
    }, 20);
  };
  traffic(DmaPool.create('prp list page', nvme, { size: 4096, align: 4096, maxBlocks: 128 }), 60, 20);
  traffic(DmaPool.create('prp list 256', nvme, { size: 256, align: 256, maxBlocks: 256 }), 90, 40);
  traffic(DmaPool.create('ehci_qtd', ehci, { size: 96, align: 32, boundary: 4096 }), 100, 30);
  traffic(DmaPool.create('ehci_qh', ehci, { size: 96, align: 32, boundary: 4096 }), 10, 2);
  const packets = DmaPool.create('packets', nvme, { size: 256, maxBlocks: 3000, debug: true });
  const shared = sharePool(packets, { magazine: 64 });
  for (let i = 0; i < 120; i++) packets.alloc();
  for (let i = 0; i < 20; i++) shared.transfer(packets.alloc());
  const source = \`
    import { attachPool } from 'dmapool/shared';
    import { workerData } from 'node:worker_threads';
    const { pool } = attachPool(workerData);
    const held = [];
    setInterval(() => {
      for (let i = 0; i < 60; i++) {
        if (Math.random() < 0.5 + (80 - held.length) / 160) { const block = pool.tryAlloc(); if (block !== null) held.push(block); }
        else held.splice(Math.floor(Math.random() * held.length), 1)[0]?.free();
      }
    }, 20);
  \`;
  for (let i = 0; i < 3; i++) new Worker(source, { eval: true, workerData: shared.handle });
`;

const folder = mkdtempSync(join(tmpdir(), 'dmapool-screenshots-'));
const env = { ...process.env, XDG_RUNTIME_DIR: folder };
// In a file of its own, whose path the page shows; it can't find the package by name there.
const file = join(folder, 'driver.mjs');
const built = (path: string): string => pathToFileURL(join(root, 'dist', 'src', path)).href;
writeFileSync(
  file,
  PROGRAM.replaceAll(`'dmapool/shared'`, `'${built('shared/index.js')}'`).replaceAll(
    `'dmapool'`,
    `'${built('index.js')}'`,
  ),
);
const program = spawn(process.execPath, ['--import', built('observe/register.js'), file], { env, stdio: 'inherit' });
const pause = (seconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, seconds * 1000));
await pause(5);
const command = [join(root, 'bin', 'dmapool.js'), 'web', String(program.pid), '--json'];
const web = spawn(process.execPath, command, { env, stdio: ['ignore', 'pipe', 'inherit'] });
const line = await new Promise<string>((resolve) => web.stdout.setEncoding('utf8').once('data', resolve));
const executablePath = process.env['DMAPOOL_CHROMIUM'] ?? '/usr/bin/chromium';
const browser = await chromium.launch({ executablePath, args: ['--no-sandbox'] });
try {
  const page = await browser.newPage({ viewport: { width: 1200, height: 960 } });
  await page.goto((JSON.parse(line) as { url: string }).url);
  await page.click('[data-pool]:has-text("packets")');
  // Enough for the charts to have a shape.
  await pause(40);
  await page.hover('#map', { position: { x: 300, y: 60 } });
  await pause(2);
  await page.screenshot({ path: join(root, 'docs', 'observe-page.png') });
  console.log('docs/observe-page.png');
} finally {
  await browser.close();
  web.kill();
  program.kill();
  rmSync(folder, { recursive: true, force: true });
}
