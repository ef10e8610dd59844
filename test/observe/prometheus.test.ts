/** Debian's Prometheus scrapes a program through `dmapool web`. At the end its values equal `statistics()`. */
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { findProgram } from '../support/browser.ts';
import { root, startProgram } from './program.ts';

/** Seconds under load. */
const SECONDS = 60;

async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1');
  await new Promise((resolve) => server.once('listening', resolve));
  const { port } = server.address() as AddressInfo;
  server.close();
  return port;
}

test(
  'for a minute under load',
  { skip: findProgram('prometheus') === undefined && 'apt-get install prometheus', timeout: 180_000 },
  async (t) => {
    const program = await startProgram(`
      const pool = DmaPool.create('rx', device, { size: 2048, maxBlocks: 1000 });
      const held = [];
      console.log('up');
      const timer = setInterval(() => {
        for (let i = 0; i < 20_000; i++) {
          if (held.length < 900 && i % 3 !== 0) held.push(pool.alloc());
          else held.pop()?.free();
        }
      }, 10);
      process.on('SIGUSR2', () => {
        clearInterval(timer);
        console.log(JSON.stringify(pool.statistics()));
        setInterval(() => {}, 1000);
      });
    `);
    const folder = mkdtempSync(join(tmpdir(), 'dmapool-prometheus-'));
    const env = { ...process.env, XDG_RUNTIME_DIR: program.folder };
    const command = [join(root, 'bin', 'dmapool.js'), 'web', String(program.pid), '--json'];
    const web = spawn(process.execPath, command, { env, stdio: ['ignore', 'pipe', 'inherit'] });
    const line = await new Promise<string>((resolve) => web.stdout.setEncoding('utf8').once('data', resolve));
    const metrics = new URL((JSON.parse(line) as { metrics: string }).metrics);
    const port = await freePort();
    writeFileSync(
      join(folder, 'prometheus.yml'),
      [
        'global: { scrape_interval: 1s }',
        'scrape_configs:',
        '  - job_name: dmapool',
        `    metrics_path: ${metrics.pathname}`,
        `    static_configs: [{ targets: ['${metrics.host}'] }]`,
        '',
      ].join('\n'),
    );
    const prometheus = spawn(
      'prometheus',
      [
        `--config.file=${join(folder, 'prometheus.yml')}`,
        `--storage.tsdb.path=${join(folder, 'data')}`,
        `--web.listen-address=127.0.0.1:${String(port)}`,
      ],
      { stdio: ['ignore', 'ignore', 'pipe'] },
    );
    let log = '';
    prometheus.stderr.setEncoding('utf8').on('data', (piece: string) => (log += piece));
    const ended = new Promise((resolve) => prometheus.once('exit', resolve));
    const query = async (expression: string): Promise<number> => {
      const url = `http://127.0.0.1:${String(port)}/api/v1/query?query=${encodeURIComponent(expression)}`;
      const { data } = (await (await fetch(url)).json()) as { data: { result: { value: [number, string] }[] } };
      return Number(data.result[0]?.value[1] ?? NaN);
    };
    try {
      await new Promise((resolve) => setTimeout(resolve, SECONDS * 1000));
      const samples = await query(`count_over_time(up[${String(SECONDS)}s])`);
      const up = await query(`min_over_time(up[${String(SECONDS - 10)}s])`);
      t.diagnostic(
        `${String(samples)} scrapes, ${String(await query('rate(dmapool_allocations_total[30s])'))} allocations a second`,
      );
      assert.equal(up, 1, log);
      assert.ok(samples > SECONDS / 2, `${String(samples)} scrapes`);
      const printed = new Promise<string>((resolve) => program.child.stdout!.once('data', resolve));
      program.child.kill('SIGUSR2');
      const statistics = JSON.parse(await printed) as Record<string, number>;
      await new Promise((resolve) => setTimeout(resolve, 3000));
      for (const [metric, figure] of [
        ['active_blocks', 'active'],
        ['capacity_blocks', 'blocks'],
        ['pages', 'pages'],
        ['high_water_blocks', 'highWater'],
        ['allocations_total', 'allocations'],
        ['frees_total', 'frees'],
        ['failures_total', 'failures'],
      ] as const) {
        assert.equal(await query(`dmapool_${metric}`), statistics[figure], metric);
      }
      assert.equal(program.errors(), '');
    } finally {
      prometheus.kill();
      await ended;
      web.kill();
      await program.stop();
      rmSync(folder, { recursive: true });
    }
  },
);
