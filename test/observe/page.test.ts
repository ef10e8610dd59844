/** The page of `dmapool web` in Chromium, with pointer and keyboard. */
import assert from 'node:assert/strict';
import { type ChildProcess, spawn } from 'node:child_process';
import { join } from 'node:path';
import { after, test } from 'node:test';
import { type Browser, chromium, type Page } from 'playwright-core';
import { findBrowser, NO_BROWSER } from '../support/browser.ts';
import { type Program, root, startProgram } from './program.ts';

const executablePath = findBrowser();
const options = { skip: executablePath === undefined ? NO_BROWSER : false, timeout: 180_000 };
let launched: Promise<Browser> | undefined;

after(async () => {
  await (await launched)?.close();
});

/** An open page. `troubles` has its errors, and violations of the content security policy. */
interface Watched {
  readonly page: Page;
  readonly program: Program;
  readonly troubles: string[];
  readonly requests: URL[];
}

async function withPage(source: string, action: (watched: Watched) => Promise<void>): Promise<void> {
  launched ??= chromium.launch({ executablePath: executablePath!, args: ['--no-sandbox'] });
  const program = await startProgram(source);
  let web: ChildProcess | undefined;
  const page = await (await launched).newPage({ viewport: { width: 1200, height: 1000 } });
  try {
    const troubles: string[] = [];
    const requests: URL[] = [];
    page.on('console', (message) => void troubles.push(message.text()));
    page.on('pageerror', (error) => void troubles.push(error.message));
    page.on('request', (request) => void requests.push(new URL(request.url())));
    const env = { ...process.env, XDG_RUNTIME_DIR: program.folder };
    const command = [join(root, 'bin', 'dmapool.js'), 'web', String(program.pid), '--json'];
    const child = spawn(process.execPath, command, { env, stdio: ['ignore', 'pipe', 'inherit'] });
    web = child;
    const line = await new Promise<string>((resolve) => child.stdout.setEncoding('utf8').once('data', resolve));
    await page.goto((JSON.parse(line) as { url: string }).url);
    await action({ page, program, troubles, requests });
  } finally {
    await page.close();
    web?.kill();
    await program.stop();
  }
}

const text = async (page: Page, selector: string): Promise<string> => (await page.textContent(selector)) ?? '';

/** Waits until an element's text matches. `waitForFunction` needs `eval`, which the page's policy forbids. */
async function shows(page: Page, selector: string, what: RegExp): Promise<string> {
  let last = '';
  for (const end = Date.now() + 30_000; Date.now() < end;) {
    last = await text(page, selector);
    if (what.test(last)) return last;
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
  throw new Error(`${selector} never showed ${String(what)}, but: ${last.slice(0, 300)}`);
}

test('devices are tabs, pools a table, blocks a map with pointer and keys', options, async () => {
  const source = `
    const rx = DmaPool.create('rx', device, { size: 2048, maxBlocks: 8, debug: true });
    for (let i = 0; i < 3; i++) rx.alloc();
    const disk = new Device({ name: '0000:00:0a.0', log });
    DmaPool.create('<b>prp</b>', disk, { size: 4096 }).alloc();
    console.log('up');
    setInterval(() => {}, 1000);
  `;
  await withPage(source, async ({ page, troubles, requests }) => {
    await shows(page, '#tabs', /0000:00:09.0/);
    assert.deepEqual(await page.getByRole('tab').allTextContents(), ['0000:00:09.0', '0000:00:0a.0']);
    await shows(page, '#pools', /rx/);
    await shows(page, '#count-allocated', /^3$/);
    const map = page.locator('#map');
    assert.match((await map.getAttribute('aria-label'))!, /^Map of 4 blocks: 1 free, 0 magazines, 3 allocated/);
    await map.hover({ position: { x: 4, y: 4 } });
    assert.match(
      await shows(page, '#block', /Block 0/),
      /^Block 0 at 0x[0-9a-f]+: allocated, from .*eval.*, [\d.]+ s ago$/,
    );
    // By keyboard.
    await map.focus();
    await page.keyboard.press('ArrowRight');
    await shows(page, '#block', /^Block 1 at .*allocated/);
    await page.keyboard.press('n');
    await shows(page, '#block', /^Block 3 at .*: free$/);
    await shows(page, '#holders', /eval.*3/);
    assert.match((await page.locator('#chart-active').getAttribute('aria-label'))!, /^active blocks: 3 now/);
    // Tabs by keyboard.
    await page.getByRole('tab', { name: '0000:00:09.0' }).press('ArrowRight');
    await shows(page, '#device', /0000:00:0a.0/);
    assert.equal(await page.getByRole('tab', { name: '0000:00:0a.0' }).getAttribute('aria-selected'), 'true');
    // A name is text, not HTML.
    assert.match(await shows(page, '#pools', /prp/), /<b>prp<\/b>/);
    // Light and dark.
    const background = (): Promise<string> => page.evaluate('getComputedStyle(document.body).backgroundColor');
    await page.emulateMedia({ colorScheme: 'light' });
    assert.equal(await background(), 'rgb(255, 255, 255)');
    await page.emulateMedia({ colorScheme: 'dark' });
    assert.notEqual(await background(), 'rgb(255, 255, 255)');
    await page.click('#theme');
    assert.equal(await background(), 'rgb(255, 255, 255)');
    // No request to another host, and no violation of the policy.
    assert.deepEqual(
      new Set(requests.filter(({ protocol }) => protocol !== 'data:').map(({ hostname }) => hostname)),
      new Set(['127.0.0.1']),
    );
    assert.deepEqual(troubles, []);
    // Every button has a name, and every table headings.
    for (const button of await page.getByRole('button').all())
      assert.notEqual((await button.textContent())?.trim(), '');
    assert.equal(
      await page
        .getByRole('row')
        .filter({ has: page.getByRole('columnheader') })
        .count(),
      3,
    );
  });
});

test('a leak, an exhausted pool and the exit of a worker are shown', options, async () => {
  const source = `
    import { sharePool } from 'dmapool/shared';
    import { Worker } from 'node:worker_threads';
    const small = DmaPool.create('small', device, { size: 64, maxBlocks: 2 });
    const common = DmaPool.create('common', device, { size: 64, maxBlocks: 64 });
    const { handle } = sharePool(common);
    const worker = new Worker(\`
      import { attachPool } from 'dmapool/shared';
      import { workerData } from 'node:worker_threads';
      const { pool } = attachPool(workerData);
      for (let i = 0; i < 5; i++) pool.alloc();
      setInterval(() => {}, 1000);
    \`, { eval: true, workerData: handle });
    process.on('SIGUSR2', () => {
      small.alloc(); small.alloc(); small.tryAlloc();
      small.destroy();
      worker.terminate();
    });
    console.log('up');
    setInterval(() => {}, 1000);
  `;
  await withPage(source, async ({ page, program }) => {
    await page.click('[data-pool]:has-text("common")');
    await shows(page, '#workers', /2.*attached/);
    program.child.kill('SIGUSR2');
    const events = await shows(page, '#events', /worker 2 ended with 5 blocks/);
    assert.match(events, /small: 2 blocks were still allocated at its end/);
    assert.match(events, /small: no block \(limit\)/);
    await shows(page, '#workers', /2.*lost.*5/);
    program.child.kill('SIGKILL');
    await shows(page, '#status', /does not answer/);
  });
});

test('1,000,000 blocks stay above 30 frames a second', options, async (t) => {
  const source = `
    const pool = DmaPool.create('many', device, { size: 16, maxBlocks: 1_000_000 });
    const all = new Int32Array(1_000_000);
    pool.allocIndexBulk(all);
    pool.freeIndexBulk(all.filter((_, i) => i % 3 === 0));
    console.log('up');
    setInterval(() => { for (let i = 0; i < 1000; i++) pool.alloc(); }, 100);
  `;
  await withPage(source, async ({ page }) => {
    await shows(page, '#count-allocated', /6\d\d,\d\d\d/);
    assert.match((await page.locator('#map').getAttribute('aria-label'))!, /^Map of 1,000,\d\d\d blocks/);
    // The pointer moves over the map, so that each frame draws it, while the page receives snapshots.
    const measured: number[] = [];
    for (let attempt = 0; attempt < 5 && Math.max(0, ...measured) <= 30; attempt++) {
      measured.push(
        await page.evaluate<number>(`new Promise((resolve) => {
          const map = document.querySelector('#map');
          const { left, top } = map.getBoundingClientRect();
          const begin = performance.now();
          const frames = dmapoolPage.frames;
          let n = 0;
          const step = () => {
            n++;
            map.dispatchEvent(new PointerEvent('pointermove', { clientX: left + (n * 7) % 1000, clientY: top + (n * 3) % 400 }));
            const seconds = (performance.now() - begin) / 1000;
            if (seconds < 3) requestAnimationFrame(step);
            else resolve((dmapoolPage.frames - frames) / seconds);
          };
          requestAnimationFrame(step);
        })`),
      );
    }
    t.diagnostic(`frames a second: ${measured.map((rate) => rate.toFixed(0)).join(', ')}`);
    assert.ok(Math.max(...measured) > 30);
  });
});
