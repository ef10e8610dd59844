import { testRuntime } from '../suite/run.ts';

testRuntime({ name: 'Node 24', command: 'node-24/bin/node', webWorkers: false, typescript: true });
