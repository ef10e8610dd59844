import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { existsSync, lstatSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { after, before, test } from 'node:test';
import type { Holder, Snapshot } from 'dmapool/observe';
import { Random } from '../support/random.ts';
import { checkSnapshot } from './fixture.ts';
import { requestPath, type Program, privateFolder, root, startProgram } from './program.ts';

let program: Program;

before(async () => {
  program = await startProgram(`
    const pool = DmaPool.create('rx', device, { size: 2048, maxBlocks: 64, debug: true });
    for (let i = 0; i < 5; i++) pool.alloc();
    console.log(JSON.stringify(pool.statistics()));
    setInterval(() => {}, 1000);
  `);
});

after(async () => {
  await program.stop();
});

const seen = async (of: Program = program, query = ''): Promise<Snapshot> =>
  checkSnapshot(JSON.parse((await requestPath(of, `/snapshot${query}`)).text) as Snapshot);

test('socket and folder are private to the user', () => {
  const socket = lstatSync(program.socket);
  assert.ok(socket.isSocket());
  assert.equal((socket.mode & 0o777).toString(8), '600');
  assert.equal((statSync(program.folder).mode & 0o777).toString(8), '700');
});

test('a second user of the system can’t connect', { skip: process.getuid?.() !== 0 && 'needs root' }, () => {
  const script = `require('node:net').connect(${JSON.stringify(program.socket)}).on('error', (e) => console.log(e.code)).on('connect', () => console.log('connected'))`;
  const options = { encoding: 'utf8', uid: 65_534, gid: 65_534, cwd: '/' } as const;
  assert.equal(spawnSync(process.execPath, ['-e', script], options).stdout, 'EACCES\n');
});

test('/snapshot fits the schema and has the figures of statistics()', async () => {
  const [device] = (await seen()).devices;
  const [pool] = device!.pools;
  const statistics = JSON.parse(program.firstLine) as Record<string, number>;
  for (const [figure, value] of Object.entries(statistics)) assert.equal(pool![figure as 'active'], value, figure);
  assert.equal(pool!.map, null);
  const id = `${String(device!.thread)}.${String(pool!.id)}`;
  const [
    {
      pools: [withBlocks],
    },
  ] = (await seen(program, `?blocks=${id}`)).devices as [Snapshot['devices'][0]];
  assert.equal(withBlocks!.map!.length, pool!.pages);
  const holders = JSON.parse((await requestPath(program, `/pools/${id}/holders`)).text) as Holder[];
  assert.deepEqual(
    holders.map(({ count }) => count),
    [5],
  );
  assert.equal((await requestPath(program, `/pools/${id}/blocks/0`)).status, 200);
  assert.equal((await requestPath(program, `/pools/${id}/blocks/99`)).status, 404);
  assert.equal((await requestPath(program, '/pools/0.999/holders')).status, 404);
  assert.equal((await requestPath(program, '/pools/7.1/holders')).status, 404);
});

test('/sys has the attribute of a device under its path, in Linux’s format', async () => {
  const { status, text } = await requestPath(program, '/sys/devices/0000:00:09.0/pools');
  assert.equal(status, 200);
  assert.equal(text, 'poolinfo - 0.1\nrx                  5    6 2048  3\n');
  assert.equal((await requestPath(program, '/sys/devices')).text, '0000:00:09.0\n');
  assert.equal((await requestPath(program, '/sys/devices/0000:00:09.0')).text, 'pools\n');
  assert.equal((await requestPath(program, '/sys/devices/0000:00:0a.0/pools')).status, 404);
});

test('/metrics in both formats, with equal values', async () => {
  const plain = await requestPath(program, '/metrics');
  assert.equal(plain.type, 'text/plain; version=0.0.4; charset=utf-8');
  const open = await requestPath(program, '/metrics', { Accept: 'application/openmetrics-text; version=1.0.0' });
  assert.match(open.type, /^application\/openmetrics-text/);
  assert.ok(open.text.endsWith('\n# EOF\n'));
  const samples = (text: string): string[] => text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  assert.deepEqual(samples(open.text), samples(plain.text));
  const labels = '{device="/sys/devices/0000:00:09.0",pool="rx",id="0.2"}';
  assert.ok(samples(plain.text).includes(`dmapool_active_blocks${labels} 5`), plain.text);
  assert.ok(samples(plain.text).includes(`dmapool_allocations_total${labels} 5`));
});

test('/events: snapshots at an interval, and events', async () => {
  const busy = await startProgram(`
    const pool = DmaPool.create('small', device, { size: 64, maxBlocks: 1 });
    pool.alloc();
    setInterval(() => pool.tryAlloc(), 20);
    console.log('up');
  `);
  try {
    const text = await new Promise<string>((resolve, reject) => {
      let all = '';
      const socket = connect(busy.socket, () => {
        socket.write('GET /events?interval=100 HTTP/1.1\r\nHost: x\r\n\r\n');
      });
      socket.setEncoding('utf8').on('data', (piece: string) => {
        all += piece;
        if (all.split('event: snapshot').length > 3) {
          socket.destroy();
          resolve(all);
        }
      });
      socket.on('error', reject);
    });
    assert.match(
      text,
      /event: exhausted\ndata: \{"time":\d+,"device":"\/sys\/devices\/0000:00:09.0","pool":"small","reason":"limit"\}/,
    );
    for (const [, data] of text.matchAll(/event: snapshot\ndata: (.*)\n\n/g))
      checkSnapshot(JSON.parse(data!) as Snapshot);
  } finally {
    await busy.stop();
  }
});

test('pools of workers are visible, and a shared pool occurs once, with its workers', async () => {
  const threaded = await startProgram(`
    import { sharePool } from 'dmapool/shared';
    import { Worker } from 'node:worker_threads';
    const pool = DmaPool.create('common', device, { size: 256, maxBlocks: 256 });
    const { handle } = sharePool(pool, { magazine: 8 });
    pool.alloc();
    const worker = new Worker(\`
      import { Device, DmaPool } from 'dmapool';
      import { attachPool } from 'dmapool/shared';
      import { parentPort, workerData } from 'node:worker_threads';
      const { pool } = attachPool(workerData);
      for (let i = 0; i < 3; i++) pool.alloc();
      DmaPool.create('own', new Device({ name: 'in-worker' }), { size: 64 }).alloc();
      parentPort.postMessage('up');
      parentPort.on('message', () => {});
    \`, { eval: true, workerData: handle });
    worker.on('message', () => console.log(JSON.stringify(pool.statistics())));
  `);
  try {
    const { devices } = await seen(threaded);
    assert.deepEqual(
      devices.map(({ name, pools, thread }) => [name, thread, pools.map((pool) => pool.name)]),
      [
        ['0000:00:09.0', 0, ['common']],
        ['in-worker', 1, ['own']],
      ],
    );
    const [common] = devices[0]!.pools;
    const statistics = JSON.parse(threaded.firstLine) as Record<string, number>;
    for (const [figure, value] of Object.entries(statistics)) assert.equal(common![figure as 'active'], value, figure);
    assert.deepEqual(
      common!.workers.map(({ worker, thread, held, cached }) => ({ worker, thread, held, cached })),
      [
        { worker: 1, thread: 0, held: 1, cached: 3 },
        { worker: 2, thread: 1, held: 3, cached: 1 },
      ],
    );
    assert.equal((await requestPath(threaded, `/pools/1.${String(devices[1]!.pools[0]!.id)}/holders`)).status, 200);
    assert.match((await requestPath(threaded, '/sys/devices/in-worker/pools')).text, /^poolinfo - 0.1\nown /);
  } finally {
    await threaded.stop();
  }
});

test('a blocked thread delays answers and breaks nothing', async () => {
  const stuck = await startProgram(`
    import { Worker } from 'node:worker_threads';
    new Worker('setTimeout(() => Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0), 300)', { eval: true });
    DmaPool.create('rx', device, { size: 64 }).alloc();
    setTimeout(() => { for (const end = Date.now() + 500; Date.now() < end;); }, 1000);
    console.log('up');
    setInterval(() => {}, 1000);
  `);
  try {
    const end = Date.now() + 2500;
    while (Date.now() < end) assert.equal((await seen(stuck)).devices.length, 1);
    assert.equal(stuck.errors(), '');
  } finally {
    await stuck.stop();
  }
});

test('the socket goes with the process; one that was left behind is swept by the next', async () => {
  const folder = privateFolder();
  const first = await startProgram(`console.log('up'); setInterval(() => {}, 1000);`, folder);
  assert.ok(existsSync(first.socket));
  // A killed process can't remove its socket.
  const killed = new Promise((resolve) => first.child.once('exit', resolve));
  first.child.kill('SIGKILL');
  await killed;
  assert.ok(existsSync(first.socket));
  const alive = join(folder, 'dmapool-1.sock');
  const other = createServer().listen(alive);
  const second = await startProgram(`setTimeout(() => console.log('up'), 500); setInterval(() => {}, 1000);`, folder);
  try {
    assert.ok(!existsSync(first.socket), 'the socket of the dead process is removed');
    assert.ok(existsSync(alive), 'the socket of a live process stays');
    second.child.kill();
    await new Promise((resolve) => second.child.once('exit', resolve));
    assert.ok(!existsSync(second.socket));
  } finally {
    other.close();
    await second.stop();
  }
});

test('a program ends as it does without observation', () => {
  const folder = privateFolder();
  const args = ['--import', 'dmapool/observe/register', '--input-type=module', '-e', `console.log('done')`];
  const options = {
    cwd: root,
    encoding: 'utf8',
    timeout: 20_000,
    env: { ...process.env, XDG_RUNTIME_DIR: folder },
  } as const;
  const { status, stdout, stderr } = spawnSync(process.execPath, args, options);
  rmSync(folder, { recursive: true });
  assert.deepEqual({ status, stdout, stderr }, { status: 0, stdout: 'done\n', stderr: '' });
});

test('a folder that others can enter is not used, nor a link', () => {
  const temporary = mkdtempSync(join(tmpdir(), 'dmapool-observe-'));
  const uid = String(process.getuid!());
  const folder = join(temporary, `dmapool-${uid}`);
  writeFileSync(folder, '');
  const args = ['--import', 'dmapool/observe/register', '-e', '0'];
  const env = { ...process.env, TMPDIR: temporary, XDG_RUNTIME_DIR: '/tmp' };
  const { status, stderr } = spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8', env });
  rmSync(temporary, { recursive: true });
  assert.equal(status, 0);
  assert.match(stderr, /dmapool: not observable: there is no private folder/);
});

// ---- hostile requests

/** Sends bytes. Returns the first line of the response, empty if there is none. */
async function sendRaw(bytes: string | Uint8Array): Promise<string> {
  return new Promise((resolve) => {
    let text = '';
    const socket = connect(program.socket, () => {
      socket.end(bytes);
    });
    socket.setEncoding('latin1').on('data', (piece: string) => (text += piece));
    socket.on('error', () => undefined);
    socket.on('close', () => {
      resolve(text.split('\r\n')[0]!);
    });
    // An event stream does not end.
    socket.setTimeout(2000, () => socket.destroy());
  });
}

test('malformed and oversized requests get 4xx', async () => {
  const cases: Readonly<Record<string, string>> = {
    'GET snapshot HTTP/1.1\r\nHost: x\r\n\r\n': '400',
    'nonsense\r\n\r\n': '400',
    'GET /snapshot HTTP/9.9\r\nHost: x\r\n\r\n': '400',
    'POST /snapshot HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n': '405',
    'DELETE /snapshot HTTP/1.1\r\nHost: x\r\n\r\n': '405',
    'GET /snapshot HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello': '413',
    'GET /snapshot HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n': '413',
    'GET /snapshot HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n': '400',
    'CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n': '400',
    'GET /snapshot HTTP/1.1\r\nHost: x\r\nExpect: teapot\r\n\r\n': '417',
    [`GET /${'a'.repeat(3000)} HTTP/1.1\r\nHost: x\r\n\r\n`]: '414',
    [`GET / HTTP/1.1\r\nHost: x\r\nX: ${'a'.repeat(10_000)}\r\n\r\n`]: '431',
    'GET /snapshot?blocks=some HTTP/1.1\r\nHost: x\r\n\r\n': '400',
    'GET /events?interval=1 HTTP/1.1\r\nHost: x\r\n\r\n': '400',
    'GET /sys/%ff HTTP/1.1\r\nHost: x\r\n\r\n': '400',
    'GET // HTTP/1.1\r\nHost: x\r\n\r\n': '404',
    'GET /snapshots HTTP/1.1\r\nHost: x\r\n\r\n': '404',
  };
  for (const [request, status] of Object.entries(cases)) {
    assert.match(await sendRaw(request), new RegExp(`^HTTP/1.1 ${status} `), request.slice(0, 60));
  }
});

test('10,000 fuzzed requests cause no error, leak or exit', async (t) => {
  const random = new Random(4242);
  const before = (await seen()).devices;
  const openFiles = (): number =>
    Number(spawnSync('sh', ['-c', `ls /proc/${String(program.pid)}/fd | wc -l`], { encoding: 'utf8' }).stdout);
  const filesBefore = openFiles();
  const paths = [
    '/snapshot',
    '/metrics',
    '/sys/devices/0000:00:09.0/pools',
    '/pools/0.2/holders',
    '/pools/0.2/blocks/1',
  ];
  const statuses = new Map<string, number>();
  const one = async (): Promise<void> => {
    const path = paths[random.below(paths.length)]!;
    let text = `GET ${path}?blocks=0.2 HTTP/1.1\r\nHost: socket\r\nAccept: */*\r\nConnection: close\r\n\r\n`;
    for (let edits = random.below(4); edits > 0; edits--) {
      const at = random.below(text.length);
      const piece = random.below(3) === 0 ? String.fromCharCode(random.below(256)).repeat(1 + random.below(40)) : '';
      text = text.slice(0, at) + piece + text.slice(at + random.below(6));
    }
    const line = await sendRaw(Buffer.from(text, 'latin1'));
    const status = line.split(' ')[1] ?? 'none';
    statuses.set(status, (statuses.get(status) ?? 0) + 1);
  };
  let left = 10_000;
  const client = async (): Promise<void> => {
    while (left-- > 0) await one();
  };
  await Promise.all(Array.from({ length: 16 }, client));
  t.diagnostic(JSON.stringify(Object.fromEntries([...statuses].sort())));
  for (const status of statuses.keys()) assert.match(status, /^(200|4\d\d|none)$/);
  assert.equal(program.errors(), '');
  assert.deepEqual((await seen()).devices, before);
  await new Promise((resolve) => setTimeout(resolve, 200));
  assert.ok(openFiles() <= filesBefore + 2, `${String(openFiles())} files, ${String(filesBefore)} before`);
});
