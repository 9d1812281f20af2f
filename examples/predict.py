"""Asks a running `paceline up` which digit somebody wrote; prints 3. Needs nothing but Python."""

import json, urllib.request
row = [0,0,6,14,16,16,2,0,0,5,16,13,11,16,0,0,0,0,7,2,15,12,0,0,0,0,0,7,16,13,1,0,0,0,0,0,6,15,10,0,0,0,0,0,0,15,9,0,0,0,3,11,8,16,6,0,0,0,7,16,16,8,0,0]
request = urllib.request.Request("http://127.0.0.1:8080/predict/digits", json.dumps(row).encode(), {"content-type": "application/json"})
answer = json.load(urllib.request.urlopen(request))
print(answer["outputs"]["label"])
