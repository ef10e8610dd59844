/**
 * The allocator in a headless browser: in a page that is cross-origin isolated, where pools are shared with Web
 * Workers; in a worker of that page, which may park; and in a page that is not isolated, where sharing is refused.
 *
 * DMAPOOL_CHROMIUM names the browser; by default it is searched on the PATH (Debian: `apt-get install chromium`).
 */
import { after, test } from 'node:test';
import { type Browser, chromium, type Page } from 'playwright-core';
import { findBrowser, NO_BROWSER } from '../../support/browser.ts';
import { assertPrinted } from '../../docs/printed.ts';
import { entryPoints } from '../../package/packed.ts';
import { EXAMPLE_PROGRAMS } from '../../support/examples.ts';
import type { Outcome } from '../suite/check.ts';
import { entriesAt, reportOutcomes } from '../suite/run.ts';
import type { Task } from './page.ts';
import { serve } from './server.ts';

const executablePath = findBrowser();
const options = { skip: executablePath === undefined ? NO_BROWSER : false, timeout: 120_000 };

/** URL path of the page's program. */
const FOLDER = '/dist/test/runtimes/chromium';

let launched: Promise<Browser> | undefined;

after(async () => {
  await (await launched)?.close();
});

/** Runs `action` with an empty page from its own server. */
async function withPage(isolated: boolean, action: (page: Page, url: URL) => Promise<void>): Promise<void> {
  // One browser for all tests; each page has another origin, and frees its memory when it closes.
  launched ??= chromium.launch({ executablePath: executablePath!, args: ['--no-sandbox'] });
  const server = await serve(isolated);
  const page = await (await launched).newPage();
  try {
    await page.goto(server.url.href);
    await action(page, server.url);
  } finally {
    await page.close();
    await server.close();
  }
}

/**
 * Runs a part of the suite in the page itself. Passed as text, since `import()` in compiled code would resolve modules
 * of this process.
 */
function runInPage(page: Page, task: Task): Promise<Outcome[]> {
  return page.evaluate(`import('${FOLDER}/page.js').then(({ runTask }) => runTask(${JSON.stringify(task)}))`);
}

/** Runs it in a worker of the page. */
function runInWorker(page: Page, task: Task): Promise<Outcome[]> {
  return page.evaluate(`new Promise((resolve, reject) => {
    const worker = new Worker('${FOLDER}/page-worker.js', { type: 'module' });
    worker.onmessage = ({ data }) => resolve(data);
    worker.onerror = ({ message }) => reject(new Error(message));
    worker.postMessage(${JSON.stringify(task)});
  })`);
}

/** Imports an example in the page, which resolves the package's name with an import map; returns what it prints. */
async function runExample(page: Page, name: string): Promise<string> {
  const imports = Object.fromEntries(entryPoints.map(({ specifier, module }) => [specifier, module.replace('.', '')]));
  await page.addScriptTag({ type: 'importmap', content: JSON.stringify({ imports }) });
  const lines: string[] = [];
  page.on('console', (message) => {
    // Others are the browser's: the page has no icon.
    if (message.type() === 'log') lines.push(`${message.text()}\n`);
  });
  const end = page.waitForEvent('console', (message) => message.text() === 'end');
  await page.evaluate(`import('/dist/examples/${name}.js').then(() => console.log('end'))`);
  await end;
  return lines.slice(0, -1).join('');
}

for (const { name, output, runsIn } of EXAMPLE_PROGRAMS) {
  if (runsIn !== 'browsers too') continue;
  test(`Chromium: examples/${name}`, options, async () => {
    await withPage(true, async (page) => {
      assertPrinted(await runExample(page, name), output);
    });
  });
}

const places = [
  ['a page', runInPage],
  ['a worker', runInWorker],
] as const;

for (const isolated of [true, false]) {
  for (const [place, run] of places) {
    const where = `Chromium, ${place} ${isolated ? 'with' : 'without'} cross-origin isolation`;

    test(`${where}: a pool of one thread`, options, async (t) => {
      await withPage(isolated, async (page) => {
        await reportOutcomes(t, await run(page, { part: 'core' }));
      });
    });

    test(`${where}: every entry point that uses nothing of Node’s`, options, async (t) => {
      await withPage(isolated, async (page, url) => {
        await reportOutcomes(t, await run(page, { part: 'entry points', entries: await entriesAt(url, 'anywhere') }));
      });
    });

    if (isolated) {
      test(`${where}: a pool of several Web Workers`, options, async (t) => {
        await withPage(isolated, async (page) => {
          await reportOutcomes(t, await run(page, { part: 'web workers' }));
        });
      });
    } else {
      test(`${where}: sharing is refused`, options, async (t) => {
        await withPage(isolated, async (page) => {
          await reportOutcomes(t, await run(page, { part: 'unshared' }));
        });
      });
    }
  }
}
